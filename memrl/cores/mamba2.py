"""Mamba-2 (Dao & Gu 2024, "Transformers are SSMs: ... Structured State Space Duality").

    z, u, B, C, dt = W x,   u, B, C = SiLU(conv([u, B, C])),   dt = softplus(dt + b),   in each head
    S_t = exp(-exp(A_log) dt_t) S_{t-1} + B_t (dt_t u_t)^T
    y_t = W_o RMSNorm((S_t^T C_t + D u_t) * SiLU(z))

A selective state space whose states of one head all decay alike: linear attention with C for the queries, B for the
keys, which the heads of a group share, and dt u for the values. D is a weight per channel, as in Mamba; the authors'
code has that as an option, and one weight per head by default.

Left out: limits on dt, a norm before the gate, biases of the projections.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx

from memrl.cores.base import CoreConfig, Linear, MemoryCore
from memrl.cores.convolution import ShortConvolution
from memrl.cores.heads import HeadNorm, default_heads, merge_heads, split_heads, width_of_head
from memrl.cores.linear_attention import HeadDecay, kernel_backend, split_widths
from memrl.errors import check
from memrl.kernels import gated_linear_attention
from memrl.types import Array

State = tuple[Array, Array]


@dataclasses.dataclass(frozen=True)
class Mamba2Config(CoreConfig):
    """Hyperparameters of Mamba-2."""

    owner: ClassVar[str] = "core mamba2"

    state_size: int = 64
    """States N of each channel of u, as in the authors' small version; their language models have 128."""
    expansion: int = 2
    """Channels of u and z for each of the D features."""
    heads: int | None = None
    """Number H of heads; when not given, as many as divide u into at least 64 channels each, or one."""
    groups: int = 1
    """Number G of groups of heads that share B and C, each group with a norm of its own."""
    conv_width: int = 4
    """Number of inputs that the convolution before u, B and C sees; 1 for a weight per channel."""
    dt_min: float = 1e-3
    """Smallest initial step dt."""
    dt_max: float = 1e-1
    """Largest initial step dt; steps are drawn log-uniformly."""

    def check(self) -> None:
        """Raises `MemrlError` for a size below one, or steps that are no interval above zero."""
        self.check_positive("state_size", "expansion", "heads", "groups", "conv_width", "dt_min")
        check(self.dt_max >= self.dt_min, f"{self.owner}: dt_max is {self.dt_max}, expected at least {self.dt_min}")


class Mamba2(MemoryCore):
    """Selective state space with a decay per head.

    Its state is the memory S [B, H, N, V] and the convolution's last inputs [B, conv_width - 1, H V + 2 G N].
    """

    parallel: ClassVar[bool] = True

    def __init__(self, features: int, config: Mamba2Config = Mamba2Config(), *, rngs: nnx.Rngs):
        inner = config.expansion * features
        self.features, self.groups, self.state_size = features, config.groups, config.state_size
        self.heads = H = config.heads or default_heads(inner)
        self.value_width = width_of_head(config, "expansion * features", inner, H)
        check(
            H % self.groups == 0,
            f"{config.owner}: heads is {H}, expected a multiple of groups = {self.groups}",
        )
        shared = config.groups * config.state_size
        self.conv_widths = (inner, shared, shared)
        self.widths = (inner, sum(self.conv_widths), H)
        self.project = Linear(features, sum(self.widths), use_bias=False, rngs=rngs)
        self.convolution = ShortConvolution(self.widths[1], config.conv_width, rngs=rngs)
        self.decay = HeadDecay(H, dt_min=config.dt_min, dt_max=config.dt_max, rngs=rngs)
        self.skip = nnx.Param(jnp.ones((H, self.value_width)))  # D
        self.norm = HeadNorm(config.groups, inner // config.groups)
        self.output = Linear(inner, features, use_bias=False, rngs=rngs)

    def initial_state(self, batch_size: int) -> State:
        """Zeros, of the memory and of the convolution."""
        memory = jnp.zeros((batch_size, self.heads, self.state_size, self.value_width))
        return memory, self.convolution.initial_state(batch_size)

    def unroll(self, state: State, xs: Array, resets: Array) -> tuple[State, Array]:
        """See `MemoryCore.unroll`."""
        memory, window = state
        # Between the projections in float32: normalised heads would magnify the rounding of bfloat16.
        z, ubc, dt = split_widths(self.project(xs).astype(jnp.float32), self.widths)
        window, ubc = self.convolution(window, ubc, resets)
        u, b, c = split_widths(nnx.silu(ubc), self.conv_widths)
        u, b, c = split_heads(u, self.heads), self._by_head(b), self._by_head(c)
        dt, log_decay = (x[..., None] for x in self.decay(dt))
        y, memory = gated_linear_attention(c, b, dt * u, log_decay, memory, resets, backend=kernel_backend(xs))
        y = merge_heads(y + self.skip[...][None, None] * u) * nnx.silu(z)
        y = merge_heads(self.norm(split_heads(y, self.groups)))
        return (memory, window), self.output(y.astype(xs.dtype))

    def _by_head(self, xs: Array) -> Array:
        """[T, B, G * N] as [T, B, H, N]: the heads of a group side by side."""
        return jnp.repeat(split_heads(xs, self.groups), self.heads // self.groups, 2)
