"""GLA (Yang et al. 2024, "Gated Linear Attention Transformers with Hardware-Efficient Training").

    q, k, v = W x,   alpha = sigmoid(W_2 W_1 x + b)^(1 / tau) in each channel of k,   in each head
    S_t = diag(alpha_t) S_{t-1} + k_t v_t^T
    y_t = W_o (LayerNorm(S_t^T q_t) * SiLU(W_r x))

W_1 has few columns; the root, tau = 16, keeps decays near one, at 0.96, at the start.

Left out: the biases of the layer normalisation and of the output gate. The authors' later code normalises by the root
mean square alone, and scales q by 1 / sqrt(K), which either norm undoes.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from memrl.cores.base import Linear, MemoryCore
from memrl.cores.heads import HeadNorm, HeadsConfig, merge_heads, split_heads
from memrl.cores.linear_attention import kernel_backend, split_widths
from memrl.kernels import gated_linear_attention
from memrl.types import Array


@dataclasses.dataclass(frozen=True)
class GLAConfig(HeadsConfig):
    """Hyperparameters of gated linear attention."""

    owner: ClassVar[str] = "core gla"

    key_width: int | None = None
    """Width K of each head's queries and keys; half of D / H, rounded up, when not given."""
    gate_rank: int = 16
    """Columns of W_1: the decays of all channels are made from so many numbers."""
    temperature: float = 16.0
    """The root tau of the gate; the larger, the slower the memory decays."""

    def check(self) -> None:
        """Raises `MemrlError` for a size or a temperature that is not above zero."""
        super().check()
        self.check_positive("gate_rank", "temperature")


class GLA(MemoryCore):
    """Gated linear attention; its state is S [B, H, K, V] float32."""

    parallel: ClassVar[bool] = True

    def __init__(self, features: int, config: GLAConfig = GLAConfig(), *, rngs: nnx.Rngs):
        self.features, self.temperature = features, config.temperature
        self.heads, self.key_width, self.value_width = H, K, V = config.head_sizes(features, keys=0.5)
        self.widths = (H * K, H * K, H * V, H * V, config.gate_rank)
        self.project = Linear(features, sum(self.widths), use_bias=False, rngs=rngs)
        self.gate = Linear(config.gate_rank, H * K, rngs=rngs)
        # The first output of an episode is (q . k) v: with the usual 1e-5, a small q . k has gradients in the hundreds.
        self.norm = HeadNorm(H, V, epsilon=1e-3, centred=True)
        self.output = Linear(H * V, features, use_bias=False, rngs=rngs)

    def initial_state(self, batch_size: int) -> Array:
        """Zeros [B, H, K, V]."""
        return jnp.zeros((batch_size, self.heads, self.key_width, self.value_width))

    def unroll(self, state: Array, xs: Array, resets: Array) -> tuple[Array, Array]:
        """See `MemoryCore.unroll`."""
        # Between the projections in float32: normalised heads would magnify the rounding of bfloat16.
        *qkvr, low = split_widths(self.project(xs).astype(jnp.float32), self.widths)
        q, k, v, r = (split_heads(x, self.heads) for x in qkvr)
        log_decay = split_heads(jax.nn.log_sigmoid(self.gate(low)) / self.temperature, self.heads)
        o, state = gated_linear_attention(q, k, v, log_decay, state, resets, backend=kernel_backend(xs))
        o = self.norm(o) * nnx.silu(r)
        return state, self.output(merge_heads(o).astype(xs.dtype))
