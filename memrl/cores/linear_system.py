"""A time-invariant linear system for each feature, x_t = A x_{t-1} + B u_t, y_t = C x_t, over chunks of steps.

With L steps in a chunk and K_l = C A^l B, the i-th step of a chunk (from 0) that starts from the state x gives

    y_i = sum_{j <= i, j in i's segment} K_{i-j} u_j   +   C A^{i+1} x, while no reset has come,
    x'  = sum_{j in the last segment} A^{L-1-j} B u_j   +   A^L x, if no reset has come,

where the segments are what resets cut the chunk into. K, C A^{i+1}, A^j B and A^L depend on the parameters alone: they
are made once per unroll, by repeated squaring.
"""

from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from memrl.cores.convolution import steps_since_reset
from memrl.types import Array


class Chunk(NamedTuple):
    """What L steps at once need of a system."""

    written: Array  # A^l B for l = 0 .. L - 1, [L, D, N]
    read: Array  # C A^l for l = 1 .. L, [L, M, D, N]
    leap: Callable[[Array, Array], Array]  # A^L x + z, for x and z [B, D, N]


class LinearSystem(NamedTuple):
    """D systems with N states and M outputs each."""

    step: Callable[[Array, Array], tuple[Array, Array]]  # x_{t-1} [B, D, N], u_t [B, D] to x_t, y_t [B, M, D]
    write: Array  # B [D, N]
    read: Array  # C [M, D, N]
    chunk: Callable[["LinearSystem", int], Chunk]  # `dense_chunk`, or what a special A makes cheaper


def unroll_system(system: LinearSystem, state: Array, us: Array, resets: Array, chunk_size: int) -> tuple[Array, Array]:
    """T steps: `state` [B, D, N], `us` [T, B, D] and `resets` [T, B] give the last state and `ys` [T, B, M, D]."""
    us = us.astype(jnp.float32)
    if len(us) == 1:
        state, y = system.step(jnp.where(resets[0][:, None, None], 0, state), us[0])
        return state, y[None]
    chunk_size = min(chunk_size, max(len(us), 1))
    whole = len(us) - len(us) % chunk_size
    state, ys = _chunks(system, state, us[:whole], resets[:whole], chunk_size)
    if whole == len(us):
        return state, ys
    state, rest = _chunks(system, state, us[whole:], resets[whole:], len(us) - whole)
    return state, jnp.concatenate([ys, rest])


def _chunks(system: LinearSystem, state: Array, us: Array, resets: Array, L: int) -> tuple[Array, Array]:
    """`len(us)` is a multiple of the chunk length L."""
    T, B, D = us.shape
    written, read, leap = system.chunk(system, L)
    starts = (jnp.arange(T) % L == 0)[:, None]
    kernel = product("mdn,ldn->lmd", system.read, written)
    ys = causal_convolution(kernel, us, steps_since_reset(resets | starts, L))

    number = jnp.cumsum(resets.reshape(-1, L, B), 1)  # of the segment, 0 until the first reset of the chunk
    carried, last = number == 0, number == number[:, -1:]
    seen = jnp.where(last[..., None], us.reshape(-1, L, B, D), 0)
    added = product("clbd,ldn->cbdn", seen, written[::-1])

    def step(x, inputs):
        added_c, unbroken_c, fresh_c = inputs
        kept = jnp.where(unbroken_c[:, None, None], x, 0)
        return leap(kept, added_c), jnp.where(fresh_c[:, None, None], 0, x)

    state, before = lax.scan(step, state, (added, carried[:, -1], ~carried[:, 0]))
    of_state = product("lmdn,cbdn->clbmd", read, before)
    return state, ys + jnp.where(carried[..., None, None], of_state, 0).reshape(ys.shape)


def dense_chunk(system: LinearSystem, L: int) -> Chunk:
    """For any A: its matrix is what it does to unit vectors, its powers are by repeated squaring."""
    D, N = system.write.shape
    columns, _ = system.step(jnp.broadcast_to(jnp.eye(N)[:, None], (N, D, N)), jnp.zeros((N, D)))
    A = jnp.transpose(columns, (1, 2, 0))
    powers = [A]  # A^(2^k)
    written, read = system.write[None], product("mdn,dnk->mdk", system.read, A)[None]
    while len(written) < L:
        written = jnp.concatenate([written, product("dnk,ldk->ldn", powers[-1], written)])
        read = jnp.concatenate([read, product("lmdn,dnk->lmdk", read, powers[-1])])
        powers.append(product("dnk,dkj->dnj", powers[-1], powers[-1]))
    factors = [power for k, power in enumerate(powers) if L >> k & 1]
    to_the_L = reduce(lambda x, y: product("dnk,dkj->dnj", x, y), factors)
    return Chunk(written[:L], read[:L], lambda x, z: product("dnk,bdk->bdn", to_the_L, x) + z)


def product(equation: str, *operands: Array) -> Array:
    """`einsum` at full precision: A is close to one, and rounding it would change how long it remembers."""
    return jnp.einsum(equation, *operands, precision=lax.Precision.HIGHEST)


@jax.custom_vjp
def causal_convolution(kernel: Array, us: Array, age: Array) -> Array:
    """y_t = sum_{l <= age_t} K_l u_{t-l} in each feature by itself.

    One pass over the sequence for each lag: on a CPU the sum over all pairs of steps takes a hundred times as long.

    Args:
        kernel: K [L, M, D].
        us: [T, B, D].
        age: how many earlier steps each step sees, [T, B]; below L, and below t + 1.

    Returns:
        y [T, B, M, D].
    """

    def add(lag, ys):
        return ys + _at(kernel, lag) * _delayed(us, age, lag)[:, :, None]

    T, B, D = us.shape
    return lax.fori_loop(0, len(kernel), add, jnp.zeros((T, B, kernel.shape[1], D), us.dtype))


def _at(kernel: Array, lag: Any) -> Array:
    return lax.dynamic_index_in_dim(kernel, lag, 0)[None]  # [1, 1, M, D]


def _delayed(us: Array, age: Array, lag: Any) -> Array:
    """u_{t-lag} where step t sees it, else 0; what `roll` brings round from the end is not seen."""
    return jnp.where((age >= lag)[..., None], jnp.roll(us, lag, 0), 0)


def _convolution_forward(kernel, us, age):
    return causal_convolution(kernel, us, age), (kernel, us, age)


def _convolution_backward(residuals, g):
    kernel, us, age = residuals

    def add(lag, gradients):
        of_kernel, of_us = gradients
        of_kernel = of_kernel.at[lag].set(jnp.sum(g * _delayed(us, age, lag)[:, :, None], (0, 1)))
        seen = jnp.where((age >= lag)[..., None], jnp.sum(_at(kernel, lag) * g, 2), 0)
        return of_kernel, of_us + jnp.roll(seen, -lag, 0)

    start = (jnp.zeros_like(kernel), jnp.zeros_like(us))
    return (*lax.fori_loop(0, len(kernel), add, start), None)


causal_convolution.defvjp(_convolution_forward, _convolution_backward)
