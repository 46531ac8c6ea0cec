"""LRU: the linear recurrent unit (Orvieto et al. 2023, "Resurrecting Recurrent Neural Networks for Long Sequences").

    lambda = exp(-exp(nu) + i exp(theta)),   |lambda| < 1 whatever nu is,
    x_t = lambda x_{t-1} + gamma (B u_t),   y_t = Re(C x_t) + D u_t.

lambda starts uniformly on the ring r_min <= |lambda| <= r_max with phases up to max_phase, gamma, which is learned too,
at sqrt(1 - |lambda|^2), so that x keeps the scale of its input. The block's gated activation is part of the core here:
y' = GELU(y) W_1 * sigmoid(GELU(y) W_2).

Left out: a learning rate of its own for nu, theta, gamma, B.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from memrl.cores.base import CoreConfig, MemoryCore
from memrl.cores.state_space import Activation, OutputActivation, into_complex, real_part, skip
from memrl.errors import check
from memrl.kernels import linear_scan
from memrl.types import Array


@dataclasses.dataclass(frozen=True)
class LRUConfig(CoreConfig):
    """Hyperparameters of the linear recurrent unit."""

    owner: ClassVar[str] = "core lru"

    state_size: int | None = None
    """Number N of complex states; the core's width D when not given."""
    r_min: float = 0.0
    """Smallest initial |lambda|."""
    r_max: float = 1.0
    """Largest initial |lambda|."""
    max_phase: float = 2 * math.pi
    """Largest initial phase of lambda; smaller ones favour slow oscillations."""
    activation: Activation = "full_glu"
    """What follows the recurrence; "half_glu" gates y itself instead of a projection of it."""

    def check(self) -> None:
        """Raises `MemrlError` for a size below one, or an empty ring."""
        self.check_positive("state_size", "max_phase")
        check(self.r_min >= 0, f"core lru: r_min is {self.r_min}, expected at least 0")
        check(self.r_min < self.r_max <= 1, f"core lru: r_max is {self.r_max}, expected in ({self.r_min}, 1]")


class LRU(MemoryCore):
    """Linear recurrent unit; its state is x [B, N] complex64."""

    parallel: ClassVar[bool] = True

    def __init__(self, features: int, config: LRUConfig = LRUConfig(), *, rngs: nnx.Rngs):
        self.features = features
        self.state_size = N = config.state_size or features
        nu, theta, gamma = _on_a_ring(N, config, rngs)
        self.nu, self.theta, self.log_gamma = nnx.Param(nu), nnx.Param(theta), nnx.Param(gamma)  # [N] each
        # B and C are complex, as planes: see memrl/cores/state_space.py.
        self.input = nnx.Param(jax.random.normal(rngs.params(), (features, 2 * N)) / math.sqrt(2 * features))
        self.output = nnx.Param(jax.random.normal(rngs.params(), (2 * N, features)) / math.sqrt(N))
        self.skip = nnx.Param(jax.random.normal(rngs.params(), (features,)))  # D [D]
        self.activation = OutputActivation(features, config.activation, rngs=rngs)

    def initial_state(self, batch_size: int) -> Array:
        """Zeros [B, N] complex64."""
        return jnp.zeros((batch_size, self.state_size), jnp.complex64)

    def unroll(self, state: Array, xs: Array, resets: Array) -> tuple[Array, Array]:
        """See `MemoryCore.unroll`."""
        decay = jnp.exp(jax.lax.complex(-jnp.exp(self.nu[...]), jnp.exp(self.theta[...])))
        inputs = jnp.exp(self.log_gamma[...])[None, None] * into_complex(xs, self.input[...])
        hs, state = linear_scan(decay, inputs, state, resets)
        ys = real_part(hs, self.output[...], xs.dtype) + skip(xs, self.skip[...])
        return state, self.activation(ys)


def _on_a_ring(size: int, config: LRUConfig, rngs: nnx.Rngs) -> tuple[Array, Array, Array]:
    """nu, theta and log gamma [N] of lambda drawn uniformly, by area, from the ring."""
    uniform = jax.random.uniform(rngs.params(), (2, size), minval=1e-6, maxval=1 - 1e-6)  # no logarithm of zero
    square = config.r_min**2 + (config.r_max**2 - config.r_min**2) * uniform[0]
    return jnp.log(-0.5 * jnp.log(square)), jnp.log(config.max_phase * uniform[1]), 0.5 * jnp.log(1 - square)
