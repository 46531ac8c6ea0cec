"""IndRNN (Li et al. 2018, "Independently Recurrent Neural Network"): neurons that see their own past alone.

h' = relu(W x + b + u * h),   |u| <= recurrent_bound

With a bound of 1 a state grows with the episode's length at most in proportion; the paper's bound for episodes of T
steps is gamma^(1/T), for a gamma of 2.

Left out: batch normalisation; a start of u near the bound in the last layer, for tasks that need long memory; the
paper's deeper and residual networks, which the stack supplies.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from memrl.cores.base import CoreConfig, Linear, MemoryCore, readout
from memrl.types import Array


@dataclasses.dataclass(frozen=True)
class IndRNNConfig(CoreConfig):
    """Hyperparameters of an IndRNN."""

    owner: ClassVar[str] = "core indrnn"

    hidden_size: int | None = None
    """Width N of the state; the core's width D when not given."""
    recurrent_bound: float = 1.0
    """The largest |u|; recurrent weights start uniform between 0 and it."""

    def check(self) -> None:
        """Raises `MemrlError` for a size below one or a bound that is not above zero."""
        self.check_positive("hidden_size", "recurrent_bound")


class IndRNN(MemoryCore):
    """Independently recurrent network; its state is h [B, N] float32."""

    parallel: ClassVar[bool] = False

    def __init__(self, features: int, config: IndRNNConfig = IndRNNConfig(), *, rngs: nnx.Rngs):
        self.features, self.bound = features, config.recurrent_bound
        self.hidden_size = N = config.hidden_size or features
        self.input = Linear(features, N, rngs=rngs)
        self.recurrent = nnx.Param(jax.random.uniform(rngs.params(), (N,), maxval=self.bound))  # u
        self.readout = readout(N, features, rngs)

    def initial_state(self, batch_size: int) -> Array:
        """Zeros [B, N]."""
        return jnp.zeros((batch_size, self.hidden_size))

    def unroll(self, state: Array, xs: Array, resets: Array) -> tuple[Array, Array]:
        """See `MemoryCore.unroll`."""
        u = jnp.clip(self.recurrent[...], -self.bound, self.bound)
        hs, state = _scan(self.input(xs).astype(jnp.float32), u, state, resets)
        ys = hs.astype(xs.dtype)
        return state, ys if self.readout is None else self.readout(ys)


@jax.custom_vjp
def _scan(inputs: Array, u: Array, h0: Array, resets: Array) -> tuple[Array, Array]:
    """h [T, B, N] and the last one."""

    def step(h, now):
        x, reset = now
        h = jnp.maximum(x + jnp.where(reset[:, None], 0, u[None] * h), 0)
        return h, h

    h_last, h = lax.scan(step, h0, (inputs, resets))
    return h, h_last


def _scan_forward(inputs, u, h0, resets):
    h, h_last = _scan(inputs, u, h0, resets)
    return (h, h_last), (u, h0, h, resets)


def _scan_backward(residuals: Any, cotangents: Any) -> Any:
    """The gradient of u is one sum after the scan."""
    u, h0, h, resets = residuals
    g, g_last = cotangents

    def step(flow, now):
        g_t, h_t, reset = now
        d = jnp.where(h_t > 0, g_t + flow, 0)
        return jnp.where(reset[:, None], 0, u[None] * d), d

    dh0, d = lax.scan(step, g_last, (g, h, resets), reverse=True)
    before = jnp.where(resets[..., None], 0, jnp.concatenate([h0[None], h])[:-1])
    return d, jnp.sum(d * before, (0, 1)), dh0, None


_scan.defvjp(_scan_forward, _scan_backward)
