"""The delta rule with a decay for each channel, S_t = (diag(exp(log_decay_t)) + b_t a_t^T) S_{t-1} + k_t v_t^T.

The transition is diagonal plus low rank (DPLR), a and b being any two vectors: RWKV-7 (Peng et al. 2025) has a = -kappa
and b = eta * kappa. In chunks, with c_i the sum of the chunk's log decays up to step i, step i writes k_i v_i^T and
b_i u_i^T, where

    u_i = S_{i-1}^T a_i = S_0^T (exp(c_{i-1}) a_i) + sum_{j < i} (a_i . exp(c_{i-1} - c_j) b_j) u_j
                                                   + sum_{j < i} (a_i . exp(c_{i-1} - c_j) k_j) v_j,

a triangular system for all steps of the chunk. With u among the values and b among the keys the rest is gated linear
attention. Decays that are bounded, log_decay >= l, let exp(c_i - c_j) = exp(c_i) exp(-c_j) factor within float32, so
that all pairs of steps are one product of matrices: exp(-c_j) is at most exp(-l C), and C is kept below 60 / -l.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from memrl.errors import check
from memrl.kernels.backends import resolve_backend
from memrl.kernels.chunks import (
    check_chunk_size,
    check_float,
    check_sequences,
    from_chunks,
    inverse_of_unit_lower,
    quarantined,
    read,
    segments,
    step_by_step,
    sums_in_chunks,
    to_chunks,
)
from memrl.types import Array

NAME = "dplr_delta_rule"
LARGEST_EXPONENT = 60.0  # of a factor; float32 ends at 88, which leaves keys twelve digits


def dplr_delta_rule(
    q: Array,
    k: Array,
    v: Array,
    a: Array,
    b: Array,
    log_decay: Array,
    s0: Array | None = None,
    reset: Array | None = None,
    *,
    least_log_decay: float,
    chunk_size: int = 32,
    backend: str = "auto",
) -> tuple[Array, Array]:
    """Computes S_t = (diag(exp(log_decay_t)) + b_t a_t^T) S_{t-1} + k_t v_t^T and o_t = S_t^T q_t.

    Nothing is scaled or normalised here: whether states grow is up to a and b.

    Args:
        q, k: queries and keys, [T, B, H, K].
        v: values, [T, B, H, V].
        a, b: what is read from the state, and where it is written, [T, B, H, K].
        log_decay: logarithms of the decays, at most 0, [T, B, H, K].
        s0: state before the first step, [B, H, K, V]; zeros by default.
        reset: [T, B] bool; true where the state before step t is zero.
        least_log_decay: a bound that `log_decay` keeps; on every back end, what is below counts as the bound. The
            chunks of "xla" have at most 60 / -least_log_decay steps: 98 where it is RWKV-7's -0.61, 12 where it is -5,
            and below -60 there is one step at a time.
        chunk_size: steps that are computed at once, at most; results differ by rounding only.
        backend: "auto" ("xla" on every platform, there being no Pallas kernel), "reference" (a plain `lax.scan`, the
            specification) or "xla" (chunks).

    Returns:
        o [T, B, H, V] in v's dtype and s_last [B, H, K, V], float32.

    Raises:
        MemrlError: for a wrong rank, sizes that do not match, integer inputs, or a bound that is not below 0.
    """
    backend = resolve_backend(NAME, backend, ("reference", "xla"))
    check_sequences(NAME, q, k, v, s0, reset)
    for argument, x in (("a", a), ("b", b), ("log_decay", log_decay)):
        check(x.shape == q.shape, f"{NAME}: {argument} has shape {x.shape}, expected {q.shape} like q")
        check_float(NAME, argument, x)
    check(
        -math.inf < least_log_decay < 0,
        f"{NAME}: least_log_decay is {least_log_decay}, expected a finite number below 0",
    )
    check_chunk_size(NAME, chunk_size)
    T, B, H, K = q.shape
    dtype = v.dtype
    s0 = jnp.zeros((B, H, K, v.shape[-1])) if s0 is None else s0.astype(jnp.float32)
    reset = jnp.zeros((T, B), bool) if reset is None else reset
    log_decay = jnp.where(reset[..., None, None], 0, log_decay)  # what came before is gone, however it decays
    q, k, v, a, b, log_decay = (x.astype(jnp.float32) for x in (q, k, v, a, b, log_decay))
    log_decay = jnp.where(log_decay < least_log_decay, least_log_decay, log_decay)  # all of the gradient at the bound
    if backend == "reference" or not (q.size and v.size):
        o, s_last = _reference(q, k, v, a, b, log_decay, s0, reset)
    else:
        least = max(least_log_decay, -LARGEST_EXPONENT)  # of a state that decays so far no digit is left
        log_decay = jnp.where(log_decay < least, least, log_decay)
        chunked = partial(_chunked, chunk_size=min(chunk_size, int(LARGEST_EXPONENT / -least), T))
        o, s_last = quarantined(chunked, q, (k, v, a, b, log_decay), s0, reset)
    return o.astype(dtype), s_last


def _reference(q, k, v, a, b, log_decay, s0, reset):
    """The specification: one step at a time, differentiated by JAX."""

    def step(s, inputs):
        q_t, k_t, v_t, a_t, b_t, log_decay_t, reset_t = inputs
        s = jnp.where(reset_t[:, None, None, None], 0, s)
        u_t = read(s, a_t)
        s = jnp.exp(log_decay_t)[..., None] * s + b_t[..., :, None] * u_t[..., None, :]
        s = s + k_t[..., :, None] * v_t[..., None, :]
        return s, read(s, q_t)

    s_last, o = step_by_step(step, s0, (q, k, v, a, b, log_decay, reset))
    return o, s_last


def _chunked(q, k, v, a, b, log_decay, s0, reset, *, chunk_size):
    """One chunk after another; differentiation keeps the states between them, and computes each chunk again.

    On 2 CPU cores that takes less time than all chunks at once, and 0.4 to 0.6 of the memory.
    """
    T = q.shape[0]
    q, k, v, a, b, log_decay = (to_chunks(x, chunk_size) for x in (q, k, v, a, b, log_decay))
    reset = to_chunks(reset[..., None], chunk_size)
    cumulative = sums_in_chunks(log_decay, segments(reset))  # [M, B, H, C, K]
    s_last, o = lax.scan(jax.checkpoint(_chunk), s0, (q, k, v, a, b, log_decay, cumulative, reset))
    return from_chunks(o, T), s_last


def _chunk(s, inputs):
    """The state [B, H, K, V] after a chunk, and its outputs [B, H, C, V]."""
    q, k, v, a, b, log_decay, cumulative, reset = inputs  # [B, H, C, ...]
    parts = segments(reset)  # [B, 1, C]
    C = q.shape[-2]
    total = jnp.exp(cumulative[..., -1:, :])

    # Queries come above the vectors a, keys before the vectors b, [B, H, 2 C, K]; a step's own pair is for q alone.
    reads = jnp.concatenate([q * jnp.exp(cumulative), a * jnp.exp(cumulative - log_decay)], -2)
    keys = jnp.concatenate([k, b], -2) * _twice(jnp.exp(-cumulative), -2)
    seen = _twice(jnp.concatenate([parts.pairs, jnp.tril(parts.pairs, -1)], -2), -1)
    scores = jnp.where(seen, reads @ jnp.swapaxes(keys, -1, -2), 0)  # [B, H, 2 C, 2 C]

    from_state = jnp.where(_twice(parts.carried, -1)[..., None], reads, 0) @ s
    o, given = jnp.split(from_state + scores[..., :C] @ v, 2, -2)
    u = inverse_of_unit_lower(-scores[..., C:, C:]) @ given
    o = o + scores[..., :C, C:] @ u

    written = jnp.where(_twice(parts.last, -1)[..., None], keys * total, 0)
    kept = jnp.where(parts.unbroken[..., None, None], total, 0)
    s = jnp.swapaxes(kept, -1, -2) * s + jnp.swapaxes(written, -1, -2) @ jnp.concatenate([v, u], -2)
    return s, o


def _twice(x, axis):
    return jnp.concatenate([x, x], axis)
