"""pLSTM on a sequence (Pöppel et al. 2025, "pLSTM: parallelizable Linear Source Transition Mark networks").

    c = conv(x),   q, k = W_qk c + b_qk,   v = W_v x + b_v,   and in each head
    s, m, d = sigmoid(W_smd c + b_smd)                                source, mark, direct
    T = tanh(5 (W_T c + b_T))                                         transition, from -1 to 1
    C_t = T_t C_{t-1} + s_t k_t v_t^T
    o_t = (m_t C_{t-1}^T q_t + d_t (k_t . q_t) v_t) / sqrt(K)
    y_t = W_o RMSNorm(o_t) + w c

C belongs to the edge from one step to the next: what a step writes is read from the next step on, and its own output
has it by the direct gate. A step of a sequence has one edge in and one out, so that both of the paper's ways to be
stable, P-mode and D-mode, ask for |T| <= 1. A T below zero turns the memory's sign, by which it can track a parity.

The paper has no experiment with sequences. Its equations 5 and 6 stand here in the layer for sequences of the authors'
code, with its short convolution and the skip connection over w; its gates start as in the paper's table 5. In that code
the gates but T do not depend on the input unless asked to, and q, k and v have block-diagonal weights; here, as in the
paper and its experiments, the gates do and the weights are whole.

Left out: graphs and images; transition matrices (appendix B.5), with which a head tracks more states than two and which
the paper's experiments do not use.
"""

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from memrl.cores.base import Linear, MemoryCore
from memrl.cores.convolution import ShortConvolution
from memrl.cores.heads import HeadNorm, HeadsConfig, merge_heads, split_heads
from memrl.cores.linear_attention import kernel_backend, split_widths
from memrl.kernels import signed_linear_attention
from memrl.types import Array

State = tuple[Array, Array]


@dataclasses.dataclass(frozen=True)
class PLSTMConfig(HeadsConfig):
    """Hyperparameters of a pLSTM."""

    owner: ClassVar[str] = "core plstm"

    conv_width: int = 4
    """Number of inputs that the convolution before q, k and the gates sees; 1 for a weight per channel."""
    source_bias: float = -4.0
    """Starting value of the source gate's bias."""
    mark_bias: float = -4.0
    """Starting value of the mark gate's bias."""
    direct_bias: float = -6.0
    """Starting value of the direct gate's bias."""
    transition_bias: float = 1.0
    """Starting value of b_T; at 1 the memory keeps 0.9999 of itself in a step."""
    transition_scale: float = 5.0
    """Factor before the transition's tanh."""
    gate_weights: Literal["zeros", "normal"] = "zeros"
    """How the weights of the gates start: at zero, or small and normal like all others, as for ImageNet."""

    def check(self) -> None:
        """Raises `MemrlError` for a size or a scale that is not above zero."""
        super().check()
        self.check_positive("conv_width", "transition_scale")


class PLSTM(MemoryCore):
    """Source, transition and mark gates round a matrix memory.

    Its state is C [B, H, K, V] float32 and the convolution's last inputs [B, conv_width - 1, D].
    """

    parallel: ClassVar[bool] = True

    def __init__(self, features: int, config: PLSTMConfig = PLSTMConfig(), *, rngs: nnx.Rngs):
        self.features, self.transition_scale = features, config.transition_scale
        self.heads, self.key_width, self.value_width = H, K, V = config.head_sizes(features)
        self.widths = (H * K, H * K, H, H, H, H)
        self.convolution = ShortConvolution(features, config.conv_width, rngs=rngs)
        self.project = Linear(features, sum(self.widths), kernel_init=small(features), rngs=rngs)
        biases = (config.source_bias, config.mark_bias, config.direct_bias, config.transition_bias)
        kernel, bias = self.project.kernel, self.project.bias
        assert bias is not None
        bias[...] = bias[...].at[-4 * H :].set(jnp.repeat(jnp.array(biases), H))
        if config.gate_weights == "zeros":
            kernel[...] = kernel[...].at[:, -4 * H :].set(0)
        self.value = Linear(features, H * V, kernel_init=small(features), rngs=rngs)
        self.norm = HeadNorm(H, V)
        self.output = Linear(H * V, features, kernel_init=small(H * V), use_bias=False, rngs=rngs)
        self.skip = nnx.Param(jnp.ones((features,)))

    def initial_state(self, batch_size: int) -> State:
        """Zeros, of the memory and of the convolution."""
        memory = jnp.zeros((batch_size, self.heads, self.key_width, self.value_width))
        return memory, self.convolution.initial_state(batch_size)

    def unroll(self, state: State, xs: Array, resets: Array) -> tuple[State, Array]:
        """See `MemoryCore.unroll`."""
        memory, window = state
        window, c = self.convolution(window, xs, resets)
        # Between the projections in float32: normalised heads would magnify the rounding of bfloat16.
        q, k, s, m, d, t = split_widths(self.project(c).astype(jnp.float32), self.widths)
        q, k, v = (split_heads(x, self.heads) for x in (q, k, self.value(xs).astype(jnp.float32)))
        s, m, d = (nnx.sigmoid(x)[..., None] for x in (s, m, d))
        transition = jnp.tanh(self.transition_scale * t)
        # The kernel reads after it has written: it gets what each step leaves to the next, and its state is that
        # before the last step.
        read, memory = signed_linear_attention(
            q,
            left_by_the_step_before(s * k, 0, resets),
            left_by_the_step_before(v, 0, resets),
            left_by_the_step_before(transition, 1, resets),
            memory,
            resets,
            backend=kernel_backend(xs),
        )
        memory = transition[-1, ..., None, None] * memory + (s * k)[-1, ..., :, None] * v[-1, ..., None, :]
        o = (m * read + d * jnp.sum(k * q, -1, keepdims=True) * v) / self.key_width**0.5
        ys = self.output(merge_heads(self.norm(o)).astype(xs.dtype))
        return (memory, window), ys + self.skip[...].astype(xs.dtype)[None, None] * c


def small(width: int) -> jax.nn.initializers.Initializer:
    """Small normal weights for an input of `width`."""
    return jax.nn.initializers.normal((2 / (5 * width)) ** 0.5)


def left_by_the_step_before(xs: Array, initial: float, resets: Array) -> Array:
    """`xs` [T, B, ...] one step later, `initial` at the first step and where an episode starts."""
    before = jnp.concatenate([jnp.full_like(xs[:1], initial), xs[:-1]])
    return jnp.where(resets.reshape(*resets.shape, *(1,) * (xs.ndim - 2)), initial, before)
