"""MLP: no memory at all. The control against which every memory is measured.

y = W_2 relu(W_1 x + b_1) + b_2
"""

import dataclasses
from typing import ClassVar

from flax import nnx

from memrl.cores.base import CoreConfig, Linear, MemoryCore
from memrl.types import Array


@dataclasses.dataclass(frozen=True)
class MLPConfig(CoreConfig):
    """Hyperparameters of the memoryless control."""

    owner: ClassVar[str] = "core mlp"

    hidden_size: int | None = None
    """Width of the hidden layer; the core's width D when not given."""

    def check(self) -> None:
        """Raises `MemrlError` for a size below one."""
        self.check_positive("hidden_size")


class MLP(MemoryCore):
    """A feed-forward layer in the place of a memory; its state is empty."""

    parallel: ClassVar[bool] = True

    def __init__(self, features: int, config: MLPConfig = MLPConfig(), *, rngs: nnx.Rngs):
        self.features = features
        hidden = config.hidden_size or features
        self.hidden = Linear(features, hidden, rngs=rngs)
        self.output = Linear(hidden, features, rngs=rngs)

    def initial_state(self, batch_size: int) -> tuple[()]:
        """Nothing."""
        del batch_size
        return ()

    def unroll(self, state: tuple[()], xs: Array, resets: Array) -> tuple[tuple[()], Array]:
        """See `MemoryCore.unroll`."""
        del resets
        return state, self.output(nnx.relu(self.hidden(xs)))
