"""sLSTM (Beck et al. 2024, "xLSTM"): an LSTM with exponential gates, a normaliser, and recurrence inside of heads.

u = SiLU(conv(x))
i = W_i u + R_i h + b_i,   f = log sigmoid(W_f u + R_f h + b_f)
z = tanh(W_z x + R_z h + b_z),   o = sigmoid(W_o x + R_o h + b_o)
m' = max(f + m, i)
c' = exp(f + m - m') c + exp(i - m') z,   n' = exp(f + m - m') n + exp(i - m'),   h' = o c' / n'
y = norm(h')                                                    each head by itself

W and R are block-diagonal, a block for each head. m keeps the exponentials from overflow and leaves h as it is. At the
start b_f is 5 - 12 (k / (K - 1))^p for the k-th of K units of a head, memories from long to none, the other b are zero,
and so are the R. The authors let p grow with depth, from 0.3 in the lowest block to 1.6 in the highest; here it is
given, by default near their middle.

Left out: exponential forget gates. The stack supplies the norm before the block and the feed-forward after it.
"""

import dataclasses
import math
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from memrl.cores.base import CoreConfig, MemoryCore
from memrl.cores.convolution import ShortConvolution
from memrl.cores.heads import HeadNorm, by_blocks, default_heads, merge_heads, width_of_head
from memrl.types import Array

NOTHING = -1e30  # the largest log gate over no step


@dataclasses.dataclass(frozen=True)
class SLSTMConfig(CoreConfig):
    """Hyperparameters of an sLSTM."""

    owner: ClassVar[str] = "core slstm"

    heads: int | None = None
    """Number H of blocks; when not given, as many as divide D into at least 64 features each, or one."""
    conv_width: int = 4
    """Steps that the convolution before the gates i and f sees."""
    forget_power: float = 1.0
    """Power p of the forget gates' start: the larger, the more units remember."""
    recurrent_init: Literal["zeros", "uniform"] = "zeros"
    """Start of R: zeros, or uniform within 1 / sqrt(D)."""

    def check(self) -> None:
        """Raises `MemrlError` for a size or a power that is not above zero."""
        self.check_positive("heads", "conv_width", "forget_power")


class SLSTMState(NamedTuple):
    """Of the episode so far."""

    inputs: Array  # [B, conv_width - 1, D]
    h: Array  # [B, H, K]
    c: Array  # [B, H, K]
    n: Array  # [B, H, K]
    m: Array  # [B, H, K]


class SLSTM(MemoryCore):
    """Scalar memory of xLSTM; its state is the convolution's last inputs and (h, c, n, m)."""

    parallel: ClassVar[bool] = False

    def __init__(self, features: int, config: SLSTMConfig = SLSTMConfig(), *, rngs: nnx.Rngs):
        self.features = features
        self.heads = H = config.heads or default_heads(features)
        self.width = K = width_of_head(config, "features", features, H)
        self.convolution = ShortConvolution(features, config.conv_width, rngs=rngs)
        small = jax.nn.initializers.normal(math.sqrt(2 / (5 * features)))
        self.gates = nnx.Param(small(rngs.params(), (H, K, 2 * K)))  # W_i, W_f of each head
        self.input = nnx.Param(small(rngs.params(), (H, K, 2 * K)))  # W_z, W_o
        zeros, bound = jnp.zeros((H, K, 4 * K)), features**-0.5
        uniform = jax.random.uniform(rngs.params(), zeros.shape, minval=-bound, maxval=bound)
        self.recurrent = nnx.Param(zeros if config.recurrent_init == "zeros" else uniform)  # R_i, R_f, R_z, R_o
        forget = 5 - 12 * (jnp.arange(K) / max(K - 1, 1)) ** config.forget_power
        self.bias = nnx.Param(jnp.zeros((H, 4, K)).at[:, 1].set(forget))
        self.norm = HeadNorm(H, K, centred=True)

    def initial_state(self, batch_size: int) -> SLSTMState:
        """Zeros, and a maximum over nothing."""
        zeros = jnp.zeros((batch_size, self.heads, self.width))
        inputs = self.convolution.initial_state(batch_size)
        return SLSTMState(inputs, zeros, zeros, zeros, jnp.full(zeros.shape, NOTHING, jnp.float32))

    def unroll(self, state: SLSTMState, xs: Array, resets: Array) -> tuple[SLSTMState, Array]:
        """See `MemoryCore.unroll`."""
        wide = xs.astype(jnp.float32)  # the norm would magnify the rounding of bfloat16
        inputs, us = self.convolution(state.inputs, wide, resets)
        from_u, from_x = by_blocks(nnx.silu(us), self.gates[...]), by_blocks(wide, self.input[...])
        given = jnp.concatenate([self._by_gate(from_u), self._by_gate(from_x)], -2) + self.bias[...][None, None]
        recurrent, initial = self.recurrent[...], self.initial_state(resets.shape[1])[1:]

        def step(cell, now):
            x, reset = now
            h, c, n, m = (jnp.where(reset[:, None, None], i, s) for i, s in zip(initial, cell, strict=True))
            x = x + self._by_gate(by_blocks(merge_heads(h), recurrent))
            i, f, z, o = jnp.moveaxis(x, -2, 0)
            f = jax.nn.log_sigmoid(f)
            m_new = jnp.maximum(f + m, i)
            keep, enter = jnp.exp(f + m - m_new), jnp.exp(i - m_new)
            c, n = keep * c + enter * jnp.tanh(z), keep * n + enter
            h = jax.nn.sigmoid(o) * c / n
            return (h, c, n, m_new), h

        cell, hs = lax.scan(step, tuple(state[1:]), (given, resets))
        return SLSTMState(inputs, *cell), merge_heads(self.norm(hs)).astype(xs.dtype)

    def _by_gate(self, xs: Array) -> Array:
        """[..., H * gates * K] as [..., H, gates, K]."""
        return xs.reshape(*xs.shape[:-1], self.heads, -1, self.width)
