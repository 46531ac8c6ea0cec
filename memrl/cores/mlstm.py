"""mLSTM (Beck et al. 2024, "xLSTM"): a matrix memory with exponential gates, in the paper's block.

u, z = W_u x, W_z x                                    both of width E = expansion * D
c = SiLU(conv(u)),   q, k, v = W_q c, W_k c / sqrt(K), W_v u
i = w_i (q, k, v) + b_i,   f = log sigmoid(w_f (q, k, v) + b_f)        in each head
m' = max(f + m, i)
S' = exp(f + m - m') S + exp(i - m') k v^T,   n' = exp(f + m - m') n + exp(i - m') k
h = S'^T q / max(|n' . q|, exp(-m'))
y = W_o ((norm(h) + skip * c) * SiLU(z))

n is one more column of S. W_q, W_k and W_v are block-diagonal. m keeps the exponentials from overflow and leaves h as
it is; it does not depend on S, so that all decays are known before the recurrence, which is gated linear attention.

The gates start with w = 0, b_i normal of deviation 0.1, and b_f from 3 to 6 over the heads. The authors draw W_q, W_k
and W_v with a variance of 2 / (5 D), made for whole matrices; here it is 1 / projection_block: at the widths of agents
their memory would start almost silent beside the skip.

Left out: nothing of the block; the stack supplies the norm before it.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from memrl.cores.base import CoreConfig, Linear, MemoryCore
from memrl.cores.convolution import ShortConvolution
from memrl.cores.heads import HeadNorm, by_blocks, default_heads, merge_heads, split_heads, width_of_head
from memrl.cores.linear_attention import kernel_backend
from memrl.errors import check
from memrl.kernels import gated_linear_attention
from memrl.types import Array

NOTHING = -1e30  # the largest log gate over no step
LARGEST = 80.0  # exponent of a bound that float32 holds


@dataclasses.dataclass(frozen=True)
class MLSTMConfig(CoreConfig):
    """Hyperparameters of an mLSTM."""

    owner: ClassVar[str] = "core mlstm"

    heads: int | None = None
    """Number H of heads; when not given, as many as divide E into at least 64 channels each, or one."""
    expansion: int = 2
    """Channels E of the memory, in terms of the core's width D."""
    conv_width: int = 4
    """Steps that the convolution sees."""
    projection_block: int = 4
    """Size of the blocks of W_q, W_k and W_v, which divides E."""

    def check(self) -> None:
        """Raises `MemrlError` for a size below one."""
        self.check_positive("heads", "expansion", "conv_width", "projection_block")


class MLSTMState(NamedTuple):
    """What an episode leaves."""

    inputs: Array  # [B, conv_width - 1, E]
    S: Array  # [B, H, K, K + 1]: the matrix, and n
    m: Array  # [B, H]


class MLSTM(MemoryCore):
    """Matrix memory of xLSTM; its state is the convolution's last inputs, S with n, and m."""

    parallel: ClassVar[bool] = True

    def __init__(self, features: int, config: MLSTMConfig = MLSTMConfig(), *, rngs: nnx.Rngs):
        self.features = features
        self.channels = E = config.expansion * features
        self.heads = H = config.heads or default_heads(E)
        self.width = K = width_of_head(config, "expansion * features", E, H)
        block = config.projection_block
        check(
            E % block == 0,
            f"core mlstm: expansion * features is {E}, expected a multiple of projection_block = {block}",
        )
        self.input = Linear(features, 2 * E, use_bias=False, rngs=rngs)  # u, z
        self.convolution = ShortConvolution(E, config.conv_width, rngs=rngs)
        init = jax.nn.initializers.normal(block**-0.5)
        self.projections = nnx.Param(init(rngs.params(), (3, E // block, block, block)))  # W_q, W_k, W_v
        self.gates = Linear(3 * E, 2 * H, kernel_init=nnx.initializers.zeros, rngs=rngs)  # i, f
        bias = self.gates.bias
        assert bias is not None
        enter = 0.1 * jax.random.normal(rngs.params(), (H,))
        bias[...] = jnp.concatenate([enter, jnp.linspace(3.0, 6.0, H)])
        self.norm = HeadNorm(H, K, centred=True)
        self.skip = nnx.Param(jnp.ones((E,)))
        self.output = Linear(E, features, use_bias=False, rngs=rngs)

    def initial_state(self, batch_size: int) -> MLSTMState:
        """Zeros, and a maximum over nothing."""
        S = jnp.zeros((batch_size, self.heads, self.width, self.width + 1))
        m = jnp.full((batch_size, self.heads), NOTHING, jnp.float32)
        return MLSTMState(self.convolution.initial_state(batch_size), S, m)

    @property
    def readout_features(self) -> int:
        """Width E of the readout."""
        return self.channels

    def unroll(self, state: MLSTMState, xs: Array, resets: Array) -> tuple[MLSTMState, Array]:
        """See `MemoryCore.unroll`."""
        state, ys, _ = self.unroll_with_readout(state, xs, resets)
        return state, ys

    def unroll_with_readout(self, state: MLSTMState, xs: Array, resets: Array) -> tuple[MLSTMState, Array, Array]:
        """See `MemoryCore.unroll_with_readout`; the readout is the normalised h, before the gate."""
        u, z = jnp.split(self.input(xs), 2, -1)
        inputs, c = self.convolution(state.inputs, u, resets)
        c = nnx.silu(c)
        # Between the projections in float32: normalised heads would magnify the rounding of bfloat16.
        projections = self.projections[...]
        q, k, v = (by_blocks(x.astype(jnp.float32), blocks) for x, blocks in zip((c, c, u), projections, strict=True))
        enter, forget = jnp.split(self.gates(jnp.concatenate([q, k, v], -1)), 2, -1)  # [T, B, H]
        forget = jax.nn.log_sigmoid(forget)
        m = largest_gates(enter, forget, state.m, resets)
        before = jnp.where(resets[..., None], 0, jnp.concatenate([state.m[None], m])[: len(m)])
        q, k, v = (split_heads(x, self.heads) for x in (q, k / self.width**0.5, v))
        k = k * jnp.exp(enter - m)[..., None]
        v = jnp.concatenate([v, jnp.ones_like(v[..., :1])], -1)
        log_decay = (forget + before - m)[..., None]
        o, S = gated_linear_attention(q, k, v, log_decay, state.S, resets, backend=kernel_backend(xs))
        bound = jnp.exp(jnp.minimum(-m, LARGEST))[..., None]
        h = merge_heads(self.norm(o[..., :-1] / jnp.maximum(jnp.abs(o[..., -1:]), bound))).astype(xs.dtype)
        ys = self.output((h + self.skip[...].astype(xs.dtype)[None, None] * c) * nnx.silu(z))
        return MLSTMState(inputs, S, m[-1] if len(m) else state.m), ys, h


def largest_gates(enter: Array, forget: Array, start: Array, resets: Array) -> Array:
    """m of all steps, [T, B, H], from log gates [T, B, H] and the m before them [B, H]."""

    def step(m: Array, now: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        i, f, reset = now
        m = jnp.where(reset[:, None], i, jnp.maximum(f + m, i))
        return m, m

    return lax.scan(step, start, (enter, forget, resets))[1]
