"""FFM, Fast and Forgetful Memory (Morad et al. 2023): traces that decay at fixed rates and turn at fixed frequencies.

u_t = (W_1 x_t + b_1) * sigmoid(W_2 x_t + b_2)                       [M]
S_t = exp(-|alpha| - i omega) * S_{t-1} + u_t 1^T                    [M, C] complex: alpha [M], omega [C]
z_t = W_3 (Re S_t, Im S_t) + b_3
y_t = LN(z_t) * sigmoid(W_4 x_t + b_4) + (W_5 x_t + b_5) * (1 - sigmoid(W_4 x_t + b_4))

alpha and omega start on grids and are learned: omega = 2 pi / period for equally spaced periods, and alpha equally
spaced from log(100) / max_period, by which a hundredth is left after max_period steps, to 0.67.

Left out: the paper's limits on |alpha| and on the length of a sequence, which its form without a recurrence needs;
the fastest initial decay is what that limit is for 1,024 steps in double precision.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from memrl.cores.base import CoreConfig, LayerNorm, Linear, MemoryCore
from memrl.errors import check
from memrl.kernels import linear_scan
from memrl.types import Array

FASTEST = 0.67  # initial decay per step


@dataclasses.dataclass(frozen=True)
class FFMConfig(CoreConfig):
    """Hyperparameters of Fast and Forgetful Memory."""

    owner: ClassVar[str] = "core ffm"

    memory_size: int = 32
    """Traces M, each with a decay of its own."""
    context_size: int = 4
    """Frequencies C."""
    min_period: float = 1.0
    """Steps of the fastest turn at the start."""
    max_period: float = 1024.0
    """Steps of the slowest turn at the start, after which the slowest decay leaves a hundredth."""

    def check(self) -> None:
        """Raises `MemrlError` for sizes below one, or periods that are no interval above zero."""
        self.check_positive("memory_size", "context_size", "min_period")
        check(
            self.max_period >= self.min_period,
            f"core ffm: max_period is {self.max_period}, expected at least {self.min_period}",
        )


class FFM(MemoryCore):
    """Fast and forgetful memory; its state is S [B, M C] complex64."""

    parallel: ClassVar[bool] = True

    def __init__(self, features: int, config: FFMConfig = FFMConfig(), *, rngs: nnx.Rngs):
        self.features = features
        self.memory_size, self.context_size = M, C = config.memory_size, config.context_size
        self.input = Linear(features, 2 * M + 2 * features, rngs=rngs)  # u and its gate, the output's gate, the skip
        slowest = min(math.log(100) / config.max_period, FASTEST)
        self.decay = nnx.Param(jnp.linspace(slowest, FASTEST, M))  # alpha
        self.frequency = nnx.Param(2 * math.pi / jnp.linspace(config.min_period, config.max_period, C))  # omega
        self.mix = Linear(2 * M * C, features, rngs=rngs)
        self.norm = LayerNorm(features, use_bias=False, use_scale=False, rngs=rngs)

    def initial_state(self, batch_size: int) -> Array:
        """Zeros [B, M C] complex64."""
        return jnp.zeros((batch_size, self.memory_size * self.context_size), jnp.complex64)

    def unroll(self, state: Array, xs: Array, resets: Array) -> tuple[Array, Array]:
        """See `MemoryCore.unroll`."""
        M, C, D = self.memory_size, self.context_size, self.features
        u, u_gate, gate, skip = jnp.split(self.input(xs), [M, 2 * M, 2 * M + D], -1)
        u = (u * nnx.sigmoid(u_gate)).astype(jnp.float32)
        grid = jnp.broadcast_arrays(-jnp.abs(self.decay[...])[:, None], -self.frequency[...][None])
        turn = jnp.exp(jax.lax.complex(*grid)).reshape(-1)  # [M C]
        hs, state = linear_scan(turn, jnp.repeat(u, C, -1).astype(jnp.complex64), state, resets)
        z = self.mix(jnp.concatenate([hs.real, hs.imag], -1).astype(xs.dtype))
        gate = nnx.sigmoid(gate)
        return state, self.norm(z) * gate + skip * (1 - gate)
