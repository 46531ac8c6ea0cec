"""A grid of chunks that each row enters at its own phase: steps [T, B, ...] as [M, B, C, ...] and back.

Step t of a row that is `phase` steps into its chunk comes to slot (phase + t) mod C of chunk (phase + t) / C. What is
before the first step and after the last is zero. Laying out is a permutation with gaps, so that each way is the
gradient of the other; gathers both ways cost less than the scatter that JAX would make of it.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from memrl.types import Array


def chunks_needed(T: int, C: int) -> int:
    """Number M of chunks that hold T steps, whatever the phase."""
    return (T + 2 * C - 2) // C


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def to_grid(x: Array, phase: Array, C: int) -> Array:
    """`x` [T, B, ...] on the grid, [M, B, C, ...], by the rows' phases [B]."""
    T, B = x.shape[:2]
    slots = np.arange(chunks_needed(T, C) * C).reshape(-1, 1, C)
    t = slots - phase[None, :, None]
    inside = (t >= 0) & (t < T)
    x = x[jnp.clip(t, 0, T - 1), jnp.arange(B)[None, :, None]]
    return jnp.where(inside.reshape(*inside.shape, *(1,) * (x.ndim - 3)), x, jnp.zeros_like(x))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def from_grid(x: Array, phase: Array, T: int) -> Array:
    """What `to_grid` laid out: `x` [M, B, C, ...] as [T, B, ...]."""
    slots = np.arange(T)[:, None] + phase[None]
    return x[slots // x.shape[2], jnp.arange(x.shape[1])[None], slots % x.shape[2]]


to_grid.defvjp(
    lambda x, phase, C: (to_grid(x, phase, C), (phase, len(x))),
    lambda C, saved, g: (from_grid(g, saved[0], saved[1]), None),
)
from_grid.defvjp(
    lambda x, phase, T: (from_grid(x, phase, T), (phase, x.shape[2])),
    lambda T, saved, g: (to_grid(g, *saved), None),
)
