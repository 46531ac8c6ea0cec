"""GMU: the gated memory unit of SambaY (Ren et al. 2025, "Decoder-Hybrid-Decoder Architecture").

    y_t = W_2 (m_t * SiLU(W_1 x_t))

It has no memory: m_t is what the core of an earlier layer read from its own at that step, before that core's gate and
output projection (`MemoryCore.unroll_with_readout`). So it needs a layer before it in its stack. Any number of units
may share one memory.

Left out: the normalised unit (nGMU), cross-attention to the keys and values of one layer.
"""

import dataclasses
from typing import ClassVar

from flax import nnx

from memrl.cores.base import CoreConfig, Linear, MemoryCore
from memrl.errors import MemrlError
from memrl.types import Array


@dataclasses.dataclass(frozen=True)
class GMUConfig(CoreConfig):
    """Hyperparameters of a gated memory unit."""

    owner: ClassVar[str] = "core gmu"

    source: str | None = None
    """Name of the core to read, in the last layer before that has it; the layer just before when not given."""


class GMU(MemoryCore):
    """Gated memory unit; its state is empty. `MemoryStack` says how wide the readout is, M, and supplies it."""

    parallel: ClassVar[bool] = True

    def __init__(
        self,
        features: int,
        config: GMUConfig = GMUConfig(),
        readout_features: int | None = None,
        *,
        rngs: nnx.Rngs,
    ):
        del config
        if readout_features is None:
            raise MemrlError("core gmu: no layer comes before it, expected another core whose memory it can read")
        self.features = features
        self.gate = Linear(features, readout_features, use_bias=False, rngs=rngs)  # W_1
        self.output = Linear(readout_features, features, use_bias=False, rngs=rngs)  # W_2

    @property
    def readout_features(self) -> int:
        """Width M: what is read is passed on."""
        return self.gate.out_features

    def initial_state(self, batch_size: int) -> tuple[()]:
        """Nothing."""
        del batch_size
        return ()

    def unroll(
        self, state: tuple[()], xs: Array, resets: Array, readout: Array | None = None
    ) -> tuple[tuple[()], Array]:
        """See `MemoryCore.unroll`; `readout` [T, B, M] is the earlier layer's."""
        del resets
        if readout is None:
            raise MemrlError("core gmu: readout is None, expected that of an earlier layer")
        return state, self.output(readout * nnx.silu(self.gate(xs)))
