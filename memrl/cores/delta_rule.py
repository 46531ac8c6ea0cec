"""The layer round the delta rule that DeltaNet, Gated DeltaNet and DeltaProduct share, where its equations are.

Projections, a short convolution and SiLU make q, and n keys and values for each token; the kernel writes and reads the
state; each head is normalised and, if the layer is gated, multiplied with a gate before the last projection.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx

from memrl.cores.base import Linear, MemoryCore
from memrl.cores.convolution import ShortConvolution
from memrl.cores.heads import HeadNorm, HeadsConfig, merge_heads, split_heads, unit
from memrl.cores.linear_attention import HeadDecay, kernel_backend, split_widths
from memrl.kernels import gated_delta_rule
from memrl.types import Array

State = tuple[Array, Array]


@dataclasses.dataclass(frozen=True)
class DeltaRuleConfig(HeadsConfig):
    """Hyperparameters that all layers with a delta rule have."""

    conv_width: int = 4
    """Number of inputs that the convolution before q, k and v sees; 1 for a weight per channel."""
    negative_eigenvalues: bool = False
    """Whether beta reaches 2 instead of 1, so that a step can reflect the state (Grazzi et al. 2025)."""

    def check(self) -> None:
        """Raises `MemrlError` for a size below one."""
        super().check()
        self.check_positive("conv_width")


class DeltaRule(MemoryCore):
    """A layer with `steps` delta rules for each token, `gated` or not.

    Its state is the memory S [B, H, K, V] and the convolution's last inputs [B, conv_width - 1, H (K + n K + n V)].
    """

    parallel: ClassVar[bool] = True

    def __init__(self, features: int, config: DeltaRuleConfig, *, steps: int = 1, gated: bool, rngs: nnx.Rngs):
        self.features, self.steps = features, steps
        self.heads, self.key_width, self.value_width = H, K, V = config.head_sizes(features)
        self.largest_beta = 2.0 if config.negative_eigenvalues else 1.0
        self.qkv_widths = (H * K, steps * H * K, steps * H * V)
        self.widths = (sum(self.qkv_widths), steps * H, *((H, H * V) if gated else (0, 0)))
        self.project = Linear(features, sum(self.widths), use_bias=False, rngs=rngs)
        self.convolution = ShortConvolution(self.widths[0], config.conv_width, use_bias=False, rngs=rngs)
        self.decay = HeadDecay(H, slowest=1e-3, rngs=rngs) if gated else None
        self.norm = HeadNorm(H, V)
        self.output = Linear(H * V, features, use_bias=False, rngs=rngs)

    def initial_state(self, batch_size: int) -> State:
        """Zeros, of the memory and of the convolution."""
        memory = jnp.zeros((batch_size, self.heads, self.key_width, self.value_width))
        return memory, self.convolution.initial_state(batch_size)

    def unroll(self, state: State, xs: Array, resets: Array) -> tuple[State, Array]:
        """See `MemoryCore.unroll`."""
        memory, window = state
        # Between the projections in float32: normalised heads would magnify the rounding of bfloat16.
        qkv, beta, a, gate = split_widths(self.project(xs).astype(jnp.float32), self.widths)
        window, qkv = self.convolution(window, qkv, resets)
        q, k, v = split_widths(nnx.silu(qkv), self.qkv_widths)
        o, memory = gated_delta_rule(
            unit(split_heads(q, self.heads)),
            unit(split_heads(self._by_step(k), self.heads)),
            split_heads(self._by_step(v), self.heads),
            self.largest_beta * nnx.sigmoid(self._by_step(beta)),
            None if self.decay is None else self.decay(a)[1],
            s0=memory,
            reset=resets,
            backend=kernel_backend(xs),
        )
        o = self.norm(o)
        if self.decay is not None:
            o = o * nnx.silu(split_heads(gate, self.heads))
        return (memory, window), self.output(merge_heads(o).astype(xs.dtype))

    def _by_step(self, xs: Array) -> Array:
        """[T, B, n * width] as [n, T, B, width]."""
        return jnp.moveaxis(split_heads(xs, self.steps), 2, 0)
