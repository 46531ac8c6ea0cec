"""Shared by the cores whose state is a matrix: projections in one product, a decay of each head, a step's back end."""

import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from memrl.types import Array


def split_widths(xs: Array, widths: Sequence[int]) -> list[Array]:
    """[..., the sum of widths] as one array for each width: several projections are one matrix product."""
    return jnp.split(xs, list(itertools.accumulate(widths))[:-1], -1)


class HeadDecay(nnx.Module):
    """Mamba-2's decay of a head by what it sees: dt = softplus(a + b) and alpha = exp(-exp(A_log) dt).

    exp(A_log) starts uniform in [slowest, 16], and dt, where a is zero, log-uniform in [dt_min, dt_max].
    """

    def __init__(self, heads: int, *, slowest: float = 1.0, dt_min: float = 1e-3, dt_max: float = 1e-1, rngs: nnx.Rngs):
        rate = jax.random.uniform(rngs.params(), (heads,), minval=slowest, maxval=16.0)
        self.log_rate = nnx.Param(jnp.log(rate))  # A_log
        low, high = math.log(dt_min), math.log(dt_max)
        dt = jnp.exp(jax.random.uniform(rngs.params(), (heads,), minval=low, maxval=high))
        self.bias = nnx.Param(jnp.log(jnp.expm1(dt)))

    def __call__(self, a: Array) -> tuple[Array, Array]:
        """dt and log alpha, both [T, B, H] float32, of a [T, B, H]."""
        dt = jax.nn.softplus(a.astype(jnp.float32) + self.bias[...][None, None])
        return dt, -jnp.exp(self.log_rate[...])[None, None] * dt


def kernel_backend(xs: Array) -> str:
    """The back end for a sequence: a single step needs no chunk round it, the recurrence as it stands costs less."""
    return "reference" if len(xs) == 1 else "auto"
