"""sLSTM (Beck et al. 2024, "xLSTM"): an LSTM with exponential gates, a normaliser, and recurrence inside of heads.

z = tanh(W_z x + b_z + R_z h),   o = sigmoid(W_o x + b_o + R_o h)
i = W_i x + b_i + R_i h,   f = log sigmoid(W_f x + b_f + R_f h)
m' = max(f + m, i)
c' = exp(f + m - m') c + exp(i - m') z,   n' = exp(f + m - m') n + exp(i - m'),   h' = o c' / n'

The R are block-diagonal, a block for each head. m keeps the exponentials from overflow and leaves h as it is.

Left out: the paper's block round the cell (a convolution before the gates i and f, group norm and feed-forward after),
of which the stack supplies norm and feed-forward; exponential forget gates.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from memrl.cores.base import CoreConfig, Linear, MemoryCore
from memrl.cores.heads import default_heads, width_of_head
from memrl.types import Array

NOTHING = -1e30  # the largest log gate over no step


@dataclasses.dataclass(frozen=True)
class SLSTMConfig(CoreConfig):
    """Hyperparameters of an sLSTM."""

    owner: ClassVar[str] = "core slstm"

    heads: int | None = None
    """Number H of blocks; when not given, as many as divide D into at least 64 features each, or one."""
    forget_bias: float = 3.0
    """Starting value of the forget gate's bias: above zero, memory is kept from the start."""

    def check(self) -> None:
        """Raises `MemrlError` for no head."""
        self.check_positive("heads")


class SLSTMState(NamedTuple):
    """Of the episode so far, each [B, D]."""

    h: Array
    c: Array
    n: Array
    m: Array


class SLSTM(MemoryCore):
    """Scalar memory of xLSTM; its state is (h, c, n, m)."""

    parallel: ClassVar[bool] = False

    def __init__(self, features: int, config: SLSTMConfig = SLSTMConfig(), *, rngs: nnx.Rngs):
        self.features = features
        self.heads = H = config.heads or default_heads(features)
        width = width_of_head(config, "features", features, H)
        self.input = Linear(features, 4 * features, rngs=rngs)  # z, i, f, o
        bias = self.input.bias
        assert bias is not None
        bias[...] = bias[...].at[2 * features : 3 * features].set(config.forget_bias)
        init = jax.nn.initializers.normal(width**-0.5)
        self.recurrent = nnx.Param(init(rngs.params(), (H, width, 4 * width)))  # R_z, R_i, R_f, R_o of each head

    def initial_state(self, batch_size: int) -> SLSTMState:
        """Zeros, and a maximum over nothing."""
        zeros = jnp.zeros((batch_size, self.features))
        return SLSTMState(zeros, zeros, zeros, jnp.full(zeros.shape, NOTHING, jnp.float32))

    def unroll(self, state: SLSTMState, xs: Array, resets: Array) -> tuple[SLSTMState, Array]:
        """See `MemoryCore.unroll`."""
        T, B = resets.shape
        gates = self.input(xs).astype(jnp.float32).reshape(T, B, 4, self.heads, -1)
        recurrent, initial = self.recurrent[...], self.initial_state(B)

        def step(state: SLSTMState, now: tuple[Array, Array]) -> tuple[SLSTMState, Array]:
            x, reset = now
            h, c, n, m = (jnp.where(reset[:, None], i, s) for i, s in zip(initial, state, strict=True))
            from_h = jnp.einsum("bhk,hkg->bhg", h.reshape(B, self.heads, -1), recurrent)
            from_h = jnp.swapaxes(from_h.reshape(B, self.heads, 4, -1), 1, 2)
            z, i, f, o = jnp.moveaxis((x + from_h).reshape(B, 4, -1), 1, 0)
            f = jax.nn.log_sigmoid(f)
            m_new = jnp.maximum(f + m, i)
            keep, enter = jnp.exp(f + m - m_new), jnp.exp(i - m_new)
            c, n = keep * c + enter * jnp.tanh(z), keep * n + enter
            h = jax.nn.sigmoid(o) * c / n
            return SLSTMState(h, c, n, m_new), h

        state, hs = lax.scan(step, state, (gates, resets))
        return state, hs.astype(xs.dtype)
