"""minLSTM (Feng et al. 2024, "Were RNNs All We Needed?"): an LSTM whose gates do not see the state, and add up to one.

f, i = sigmoid(W_f x + b_f), sigmoid(W_i x + b_i),   c = W_c x + b_c
h' = f / (f + i) h + i / (f + i) c

Left out: the form in logarithms, which the authors' code has: it keeps c above zero and cannot represent a reset; their
learned initial state; the paper's blocks of convolution and feed-forward, of which the stack supplies the latter.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from memrl.cores.base import CoreConfig, Linear, MemoryCore, readout
from memrl.kernels import linear_scan
from memrl.types import Array


@dataclasses.dataclass(frozen=True)
class MinLSTMConfig(CoreConfig):
    """Hyperparameters of a minLSTM."""

    owner: ClassVar[str] = "core minlstm"

    hidden_size: int | None = None
    """Width N of the state; the core's width D when not given."""
    forget_bias: float = 1.0
    """Starting value of the forget gate's bias: above zero, memory is kept from the start."""

    def check(self) -> None:
        """Raises `MemrlError` for a size below one."""
        self.check_positive("hidden_size")


class MinLSTM(MemoryCore):
    """Minimal long short-term memory; its state is h [B, N] float32."""

    parallel: ClassVar[bool] = True

    def __init__(self, features: int, config: MinLSTMConfig = MinLSTMConfig(), *, rngs: nnx.Rngs):
        self.features = features
        self.hidden_size = N = config.hidden_size or features
        self.input = Linear(features, 3 * N, rngs=rngs)  # f, i, c
        bias = self.input.bias
        assert bias is not None
        bias[...] = bias[...].at[:N].set(config.forget_bias)
        self.readout = readout(N, features, rngs)

    def initial_state(self, batch_size: int) -> Array:
        """Zeros [B, N]."""
        return jnp.zeros((batch_size, self.hidden_size))

    def unroll(self, state: Array, xs: Array, resets: Array) -> tuple[Array, Array]:
        """See `MemoryCore.unroll`."""
        forget, enter, candidate = jnp.split(self.input(xs).astype(jnp.float32), 3, -1)
        # f / (f + i) is the sigmoid of log f - log i, and never 0 / 0.
        kept = jax.nn.sigmoid(jax.nn.log_sigmoid(forget) - jax.nn.log_sigmoid(enter))
        hs, state = linear_scan(kept, (1 - kept) * candidate, state, resets)
        ys = hs.astype(xs.dtype)
        return state, ys if self.readout is None else self.readout(ys)
