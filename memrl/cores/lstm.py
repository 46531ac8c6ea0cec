"""LSTM (Hochreiter & Schmidhuber 1997; forget gate of Gers et al. 2000), as `flax.nnx.OptimizedLSTMCell`.

i, f, o = sigmoid(W_ifo x + b_ifo + U_ifo h),   g = tanh(W_g x + b_g + U_g h)
c' = f c + i g,   h' = o tanh(c')
"""

import dataclasses
from typing import ClassVar, Literal

import jax.numpy as jnp
from flax import nnx

from memrl.cores.base import CoreConfig, Linear, MemoryCore, readout
from memrl.cores.gru import orthogonal_gates
from memrl.kernels import lstm_scan
from memrl.types import Array


@dataclasses.dataclass(frozen=True)
class LSTMConfig(CoreConfig):
    """Hyperparameters of an LSTM."""

    owner: ClassVar[str] = "core lstm"

    hidden_size: int | None = None
    """Width N of the hidden and the cell state; the core's width D when not given."""
    forget_bias: float = 1.0
    """Starting value of the forget gate's bias: above zero, memory is kept from the start."""
    scan: Literal["sequential", "newton"] = "sequential"
    """How a sequence is unrolled: step by step, or parallel in time by Newton's method, which gives the same up to its
    tolerance, and falls back to steps where it does not converge. On a CPU it is slower."""

    def check(self) -> None:
        """Raises `MemrlError` for a size below one."""
        self.check_positive("hidden_size")


class LSTM(MemoryCore):
    """Long short-term memory; its state is (h, c), each [B, N] float32."""

    def __init__(self, features: int, config: LSTMConfig = LSTMConfig(), *, rngs: nnx.Rngs):
        self.features = features
        self.hidden_size = N = config.hidden_size or features
        self.scan = config.scan
        self.input = Linear(features, 4 * N, rngs=rngs)
        bias = self.input.bias
        assert bias is not None
        bias[...] = bias[...].at[N : 2 * N].set(config.forget_bias)
        self.recurrent = nnx.Param(orthogonal_gates(4, N, rngs))
        self.readout = readout(N, features, rngs)

    @property
    def parallel(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the scan is by Newton's method."""
        return self.scan == "newton"

    def initial_state(self, batch_size: int) -> tuple[Array, Array]:
        """Zeros, twice [B, N]."""
        return jnp.zeros((batch_size, self.hidden_size)), jnp.zeros((batch_size, self.hidden_size))

    def unroll(self, state: tuple[Array, Array], xs: Array, resets: Array) -> tuple[tuple[Array, Array], Array]:
        """See `MemoryCore.unroll`."""
        backend = "newton" if self.parallel and len(xs) > 1 else "auto"  # one step is a plain cell
        hs, state = lstm_scan(self.input(xs), self.recurrent[...], *state, resets, backend=backend)
        ys = hs.astype(xs.dtype)
        return state, ys if self.readout is None else self.readout(ys)
