"""A grid of chunks that each row enters at its own phase: steps [T, B, ...] as [M, B, C, ...] and back.

Step t of a row that is `phase` steps into its chunk comes to slot (phase + t) mod C of chunk (phase + t) / C. What is
before the first step and after the last is zero. Laying out is a permutation with gaps, so that each way is the
gradient of the other; gathers both ways cost less than the scatter that JAX would make of it.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from memrl.types import Array


def chunks_needed(T: int, C: int) -> int:
    """Number M of chunks that hold T steps, whatever the phase."""
    return (T + 2 * C - 2) // C


def to_grid(x: Array, phase: Array, C: int, M: int | None = None) -> Array:
    """`x` [T, B, ...] on the grid, [M, B, C, ...], by the rows' phases [B]; with M given, these may be C or more."""
    grid: Any = _to_grid(x, phase, len(x), C, chunks_needed(len(x), C) if M is None else M)
    return grid


def from_grid(x: Array, phase: Array, T: int) -> Array:
    """What `to_grid` laid out: `x` [M, B, C, ...] as [T, B, ...]."""
    steps: Any = _from_grid(x, phase, T, x.shape[2], x.shape[0])
    return steps


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _to_grid(x: Array, phase: Array, T: int, C: int, M: int) -> Array:
    t = np.arange(M * C).reshape(-1, 1, C) - phase[None, :, None]
    inside = (t >= 0) & (t < T)
    x = x[jnp.clip(t, 0, T - 1), jnp.arange(len(phase))[None, :, None]]
    return jnp.where(inside.reshape(*inside.shape, *(1,) * (x.ndim - 3)), x, jnp.zeros_like(x))


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _from_grid(x: Array, phase: Array, T: int, C: int, M: int) -> Array:
    del M
    slots = np.arange(T)[:, None] + phase[None]
    return x[slots // C, jnp.arange(len(phase))[None], slots % C]


_to_grid.defvjp(
    lambda x, phase, T, C, M: (_to_grid(x, phase, T, C, M), phase),
    lambda T, C, M, phase, g: (_from_grid(g, phase, T, C, M), None),
)
_from_grid.defvjp(
    lambda x, phase, T, C, M: (_from_grid(x, phase, T, C, M), phase),
    lambda T, C, M, phase, g: (_to_grid(g, phase, T, C, M), None),
)
