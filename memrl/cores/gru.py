"""GRU: the gated recurrent unit (Cho et al. 2014), in the form of cuDNN and `flax.nnx.GRUCell`.

r, z = sigmoid(W_rz x + b_rz + U_rz h)
n    = tanh(W_n x + b_n + r * (U_n h))
h'   = (1 - z) n + z h
"""

import dataclasses
from typing import ClassVar, Literal

import jax.numpy as jnp
from flax import nnx

from memrl.cores.base import CoreConfig, Linear, MemoryCore, orthogonal, readout
from memrl.kernels import gru_scan
from memrl.types import Array


@dataclasses.dataclass(frozen=True)
class GRUConfig(CoreConfig):
    """Hyperparameters of a GRU."""

    owner: ClassVar[str] = "core gru"

    hidden_size: int | None = None
    """Width N of the state; the core's width D when not given."""
    scan: Literal["sequential", "newton"] = "sequential"
    """How a sequence is unrolled: step by step, or parallel in time by Newton's method, which gives the same up to its
    tolerance, and falls back to steps where it does not converge. On a CPU it is slower."""

    def check(self) -> None:
        """Raises `MemrlError` for a size below one."""
        self.check_positive("hidden_size")


class GRU(MemoryCore):
    """Gated recurrent unit; its state is h [B, N] float32."""

    def __init__(self, features: int, config: GRUConfig = GRUConfig(), *, rngs: nnx.Rngs):
        self.features = features
        self.hidden_size = N = config.hidden_size or features
        self.scan = config.scan
        self.input = Linear(features, 3 * N, rngs=rngs)
        self.recurrent = nnx.Param(orthogonal_gates(3, N, rngs))
        self.readout = readout(N, features, rngs)

    @property
    def parallel(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the scan is by Newton's method."""
        return self.scan == "newton"

    def initial_state(self, batch_size: int) -> Array:
        """Zeros [B, N]."""
        return jnp.zeros((batch_size, self.hidden_size))

    def unroll(self, state: Array, xs: Array, resets: Array) -> tuple[Array, Array]:
        """See `MemoryCore.unroll`."""
        backend = "newton" if self.parallel and len(xs) > 1 else "auto"  # one step is a plain cell
        hs, state = gru_scan(self.input(xs), self.recurrent[...], state, resets, backend=backend)
        ys = hs.astype(xs.dtype)
        return state, ys if self.readout is None else self.readout(ys)


def orthogonal_gates(gates: int, width: int, rngs: nnx.Rngs) -> Array:
    """[N, gates * N]: each gate's recurrent matrix is orthogonal, so that h keeps its scale at the start."""
    init = orthogonal()
    return jnp.concatenate([init(rngs.params(), (width, width), jnp.float32) for _ in range(gates)], axis=1)
