"""What the chunked kernels share: a sequence cut into chunks, its segments between resets, and a quarantine for NaN.

Inside a chunk all steps are computed at once by matrix products, so that a reset is a mask on a matrix of pairs of
steps. A mask is a product with zero, and zero times NaN is NaN: values that are not finite are taken out before, and
put back into what they reach, which is the rest of their own segment.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from memrl.errors import check
from memrl.types import Array

SMALLEST_LOG_DECAY = -80.0  # its exponential is 2e-35; differences of sums of larger ones would be too coarse


class Segments(NamedTuple):
    """The segments between resets, in each chunk of C steps; leaves [M, B, 1, C] for M chunks."""

    number: Array  # int32, 0 until the first reset of the chunk
    carried: Array  # bool: no reset yet, so that the step sees the state before the chunk
    last: Array  # bool: no reset follows, so that the step is seen by the state after the chunk

    @property
    def pairs(self) -> Array:
        """[M, B, 1, C, C] bool: step i sees step j <= i."""
        same = self.number[..., :, None] == self.number[..., None, :]
        return jnp.tril(same)

    @property
    def unbroken(self) -> Array:
        """[M, B, 1] bool: the chunk has no reset."""
        return self.carried[..., -1]


def read(s: Array, q: Array) -> Array:
    """S^T q, [..., V], of a state `s` [..., K, V] and `q` [..., K].

    As a product: a sum over products takes jaxlib 0.10's CPU compiler up to forty times as long.
    """
    return jnp.einsum("...kv,...k->...v", s, q, precision=lax.Precision.HIGHEST)


def step_by_step(step: Callable, s0: Array, inputs: tuple[Array, ...]) -> tuple[Array, Array]:
    """`lax.scan` over inputs that are computed before it.

    Of a scan over one step XLA makes no loop, and on a CPU computes k_t and v_t, with all that they come from, once
    more for each entry of the state; but a quotient it computes once, and does not know that this one divides by one.
    """
    if len(inputs[0]) == 1:
        one = lax.optimization_barrier(jnp.float32(1))
        inputs = tuple(x / one.astype(x.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x for x in inputs)
    return lax.scan(step, s0, inputs)


def segments(reset: Array) -> Segments:
    """Of resets in chunks, [M, B, 1, C] bool."""
    number = jnp.cumsum(reset, -1, dtype=jnp.int32)
    return Segments(number, number == 0, number == number[..., -1:])


def to_chunks(x: Array, chunk_size: int) -> Array:
    """[T, B, H, ...] as [M, B, H, C, ...], with zeros after the end."""
    T = x.shape[0]
    M = -(-T // chunk_size)
    x = jnp.pad(x, ((0, M * chunk_size - T), *((0, 0) for _ in x.shape[1:])))
    return jnp.moveaxis(x.reshape(M, chunk_size, *x.shape[1:]), 1, 3)


def from_chunks(x: Array, T: int) -> Array:
    """[M, B, H, C, ...] as [T, B, H, ...]."""
    x = jnp.moveaxis(x, 3, 1)
    return x.reshape(-1, *x.shape[2:])[:T]


def decays(cumulative: Array, pairs: Array) -> Array:
    """exp(sum of the log decays of steps j+1 to i) where `pairs` [..., C, C], else 0; of sums [..., C]."""
    between = cumulative[..., :, None] - cumulative[..., None, :]
    return jnp.where(pairs, jnp.exp(jnp.where(pairs, between, 0)), 0)


@jax.custom_vjp
def sums_in_chunks(x: Array, parts: Segments) -> Array:
    """Sums of `x` [M, B, H, C, ...] from each chunk's start on, of which only differences within a segment are used.

    So the gradient of a step is the sum over the later steps of its segment. Over all later steps it would be the same
    up to rounding: what comes before a reset would have a gradient that is nearly zero.
    """
    del parts
    return jnp.cumsum(x, 3)


def _sums_forward(x, parts):
    return sums_in_chunks(x, parts), parts


def _sums_backward(parts, g):
    wide = g.reshape(*g.shape[:4], -1)
    later = jnp.swapaxes(parts.pairs, -1, -2).astype(g.dtype)  # of each step
    later = jnp.broadcast_to(later, (*g.shape[:3], *later.shape[3:]))
    return (later @ wide).reshape(g.shape), None


sums_in_chunks.defvjp(_sums_forward, _sums_backward)


Kernel = Callable[..., tuple[Array, Array]]


def quarantined(kernel: Kernel, q: Array, written: Sequence[Array], s0: Array, reset: Array) -> tuple[Array, Array]:
    """`kernel(q, *written, s0, reset)` on finite values, its results NaN where values that were not finite reach.

    Args:
        kernel: returns outputs [T, B, H, V] and a state like s0.
        q: what reads the state, [T, B, H, K]; it reaches its own step alone.
        written: what changes the state, arrays [T, B, H or 1, ...].
        s0: [B, H, K, V].
        reset: [T, B] bool.
    """
    bad_q, *bad = (~jnp.isfinite(x).reshape(*x.shape[:3], -1).all(-1) for x in (q, *written))  # [T, B, H]
    bad_state = ~jnp.isfinite(s0).all((2, 3))  # [B, H]
    bad_step = jnp.any(jnp.stack(jnp.broadcast_arrays(*bad)), 0)
    clean = [_zero_where(b, x) for b, x in zip((bad_q, *bad), (q, *written), strict=True)]
    o, s_last = kernel(*clean, _zero_where(bad_state, s0), reset)

    # How many bad values came before, counted from the last reset on.
    count = jnp.cumsum(bad_step, 0, dtype=jnp.int32)
    before = lax.cummax(jnp.where(reset[..., None], count - bad_step, -bad_state.astype(jnp.int32)), axis=0)
    reached = count > before
    reached_last = jnp.concatenate([bad_state[None], reached])[-1]
    o = jnp.where((reached | bad_q)[..., None], jnp.nan, o)
    return o, jnp.where(reached_last[..., None, None], jnp.nan, s_last)


def _zero_where(condition: Array, x: Array) -> Array:
    """`x`, zero where `condition`, which has its first axes."""
    return jnp.where(condition.reshape(*condition.shape, *(1,) * (x.ndim - condition.ndim)), 0, x)


def check_sequences(name: str, q: Array, k: Array, v: Array, s0: Array | None, reset: Array | None) -> None:
    """Shapes and types of q, k [T, B, H, K], v [T, B, H, V], s0 and reset: one error line that names the argument."""
    check(q.ndim == 4, f"{name}: q has shape {q.shape}, expected [T, B, H, K]")
    T, B, H, K = q.shape
    check(k.shape == q.shape, f"{name}: k has shape {k.shape}, expected {q.shape} like q")
    check(
        v.ndim == 4 and v.shape[:3] == (T, B, H),
        f"{name}: v has shape {v.shape}, expected [{T}, {B}, {H}, V]",
    )
    expected = (B, H, K, v.shape[-1])
    check(s0 is None or s0.shape == expected, f"{name}: s0 has shape {getattr(s0, 'shape', None)}, expected {expected}")
    for argument, x in (("q", q), ("k", k), ("v", v), ("s0", s0)):
        check_float(name, argument, x)
    check(
        reset is None or (reset.shape == (T, B) and reset.dtype == jnp.bool_),
        f"{name}: reset is {getattr(reset, 'dtype', None)}{list(getattr(reset, 'shape', ()))}, expected bool{[T, B]}",
    )


def check_float(name: str, argument: str, x: Array | None) -> None:
    """Raises `MemrlError` unless `x` is None or of real floats."""
    check(
        x is None or jnp.issubdtype(x.dtype, jnp.floating),
        f"{name}: {argument} has dtype {getattr(x, 'dtype', None)}, expected a real float",
    )


def check_chunk_size(name: str, chunk_size: int) -> None:
    """Raises `MemrlError` for a chunk without steps."""
    check(chunk_size >= 1, f"{name}: chunk_size is {chunk_size}, expected at least 1")


SUBSTITUTED = 16  # rows


@jax.custom_vjp
def inverse_of_unit_lower(lower: Array) -> Array:
    """(I + lower)^-1 for strictly lower triangular matrices [..., R, R].

    Blocks of 16 by forward substitution, then pairs of blocks by [[A, 0], [L, D]]^-1 = [[A', 0], [-D' L A', D']]. As
    stable as substitution, where a product of powers, (I - L)(I + L^2)(I + L^4)..., loses all digits when keys are
    alike. (Two LAPACK solves of a batch in one program hang on the CPU, jaxlib 0.10.2.)
    """
    R = lower.shape[-1]
    size = min(SUBSTITUTED, R)
    padded = size
    while padded < R:
        padded *= 2
    leading = lower.shape[:-2]
    lower = jnp.pad(lower, (*((0, 0) for _ in leading), (0, padded - R), (0, padded - R)))

    def blocks(row: int) -> Array:
        """Blocks below the diagonal (row 1 of each pair), or on it (row 0), [..., count, size, size]."""
        step = size * (1 + row)
        starts = range(0, padded, step)
        chosen = [lower[..., at + row * size : at + step, at : at + size] for at in starts]
        return jnp.stack(chosen, -3)

    inverse = _substitute(blocks(0))
    while size < padded:
        first, second = inverse[..., 0::2, :, :], inverse[..., 1::2, :, :]
        below = -second @ blocks(1) @ first
        upper = jnp.concatenate([first, jnp.zeros_like(first)], -1)
        inverse = jnp.concatenate([upper, jnp.concatenate([below, second], -1)], -2)
        size *= 2
    return inverse[..., 0, :R, :R]


def _substitute(lower: Array) -> Array:
    """The inverses of I + lower [..., s, s], one row at a time for all of them."""
    s = lower.shape[-1]
    by_entry = jnp.moveaxis(lower.reshape(-1, s, s), 0, -1)  # [s, s, matrices]: all do the same

    def row(i, inverse):
        known = jnp.sum(by_entry[i][:, None, :] * inverse, 0)
        return inverse.at[i].set((jnp.arange(s) == i)[:, None] - known)  # a row of the identity less what is known

    inverse = lax.fori_loop(0, s, row, jnp.zeros_like(by_entry))
    return jnp.moveaxis(inverse, -1, 0).reshape(lower.shape)


def _inverse_forward(lower):
    inverse = inverse_of_unit_lower(lower)
    return inverse, inverse


def _inverse_backward(inverse, g):
    transposed = jnp.swapaxes(inverse, -1, -2)
    return (-jnp.tril(transposed @ g @ transposed, -1),)


inverse_of_unit_lower.defvjp(_inverse_forward, _inverse_backward)
