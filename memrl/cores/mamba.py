"""Mamba (Gu & Dao 2023): a diagonal state per channel whose step, input and output depend on the input.

x, z = W_x u, W_z u                                  both of width E = expansion * D
x = SiLU(conv(x))
dt = softplus(W_dt (W_r x) + b_dt),   B = W_B x,   C = W_C x,   A = -exp(A_log)
h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t,   y_t = C_t . h_t + D x_t
out = W_o (y * SiLU(z))

Left out: nothing of the block; the published model puts RMS norm before it, as the stack may.
"""

import dataclasses
import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from memrl.cores.base import CoreConfig, Linear, MemoryCore
from memrl.cores.convolution import ShortConvolution
from memrl.errors import check
from memrl.kernels import selective_scan
from memrl.types import Array


@dataclasses.dataclass(frozen=True)
class MambaConfig(CoreConfig):
    """Hyperparameters of Mamba."""

    owner: ClassVar[str] = "core mamba"

    state_size: int = 16
    """States N of each channel."""
    expansion: int = 2
    """Channels E of the recurrence, in terms of the core's width D."""
    conv_width: int = 4
    """Steps that the convolution sees."""
    dt_rank: int | None = None
    """Rank of the projection to the step sizes; D / 16, rounded up, when not given."""
    dt_min: float = 1e-3
    """Smallest initial step."""
    dt_max: float = 1e-1
    """Largest initial step; steps are drawn log-uniformly."""

    def check(self) -> None:
        """Raises `MemrlError` for sizes below one, or steps that are no interval above zero."""
        self.check_positive("state_size", "expansion", "conv_width", "dt_rank", "dt_min")
        check(self.dt_max >= self.dt_min, f"core mamba: dt_max is {self.dt_max}, expected at least {self.dt_min}")


class MambaState(NamedTuple):
    """What an episode leaves."""

    inputs: Array  # [B, conv_width - 1, E]
    h: Array  # [B, E, N]


class Mamba(MemoryCore):
    """Selective state space; its state is the convolution's last inputs and h."""

    parallel: ClassVar[bool] = True

    def __init__(self, features: int, config: MambaConfig = MambaConfig(), *, rngs: nnx.Rngs):
        self.features, self.state_size = features, config.state_size
        self.channels = E = config.expansion * features
        self.rank = config.dt_rank or -(-features // 16)
        self.input = Linear(features, 2 * E, use_bias=False, rngs=rngs)  # x, z
        self.convolution = ShortConvolution(E, config.conv_width, rngs=rngs)
        self.selection = Linear(E, self.rank + 2 * config.state_size, use_bias=False, rngs=rngs)  # dt's rank, B, C
        bound = self.rank**-0.5
        uniform = jax.nn.initializers.uniform(2 * bound)
        self.dt_kernel = nnx.Param(uniform(rngs.params(), (self.rank, E)) - bound)
        low, high = math.log(config.dt_min), math.log(config.dt_max)
        dt = jnp.exp(jax.random.uniform(rngs.params(), (E,), minval=low, maxval=high))
        self.dt_bias = nnx.Param(dt + jnp.log(-jnp.expm1(-dt)))  # softplus of it is dt
        n = jnp.arange(1.0, config.state_size + 1)
        self.A_log = nnx.Param(jnp.broadcast_to(jnp.log(n)[None], (E, config.state_size)))  # S4D-Real
        self.skip = nnx.Param(jnp.ones((E,)))  # D
        self.output = Linear(E, features, use_bias=False, rngs=rngs)

    def initial_state(self, batch_size: int) -> MambaState:
        """Zeros."""
        h = jnp.zeros((batch_size, self.channels, self.state_size))
        return MambaState(self.convolution.initial_state(batch_size), h)

    @property
    def readout_features(self) -> int:
        """Width E of the readout."""
        return self.channels

    def unroll(self, state: MambaState, xs: Array, resets: Array) -> tuple[MambaState, Array]:
        """See `MemoryCore.unroll`."""
        state, ys, _ = self.unroll_with_readout(state, xs, resets)
        return state, ys

    def unroll_with_readout(self, state: MambaState, xs: Array, resets: Array) -> tuple[MambaState, Array, Array]:
        """See `MemoryCore.unroll_with_readout`; the readout is y, before the gate."""
        x, z = jnp.split(self.input(xs), 2, -1)
        inputs, x = self.convolution(state.inputs, x, resets)
        x = nnx.silu(x)
        low_rank, B, C = jnp.split(self.selection(x), [self.rank, self.rank + self.state_size], -1)
        dt = low_rank @ self.dt_kernel[...].astype(xs.dtype) + self.dt_bias[...].astype(xs.dtype)[None, None]
        A = -jnp.exp(self.A_log[...])
        ys, h = selective_scan(x, nnx.softplus(dt), A, B, C, self.skip[...], state.h, resets)
        return MambaState(inputs, h), self.output(ys * nnx.silu(z)), ys
