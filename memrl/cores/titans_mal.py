"""Titans, memory as a layer (Behrouz, Zhong & Mirrokni 2024, section 4.3): memory first, then attention.

    y = M(x),   o = SW-Attn([p_1 ... p_P || y])

M is the neural memory with its convolutions, output gate and projection (`memrl.cores.titans`), SW-Attn is window
attention with P persistent tokens that every step sees (`memrl.cores.window_attention`). In the paper the tokens come
before x, so that attention sees M(p_i) for as long as they are in its window. They depend on no data, nor does what M
makes of them at the start of an episode: here the results are learned themselves, p_i for what attention sees and
M_init for the weights after them, and attention sees them always, as in the paper's other two models.

There is neither norm nor residual connection between the two; with them it is the stack `titans,window_attention`.

Left out: the momentum and the convolution's inputs that tokens before x would leave in M, which start at zero.
"""

import dataclasses
from typing import ClassVar, NamedTuple

from flax import nnx

from memrl.cores.attention import Window
from memrl.cores.base import Extras, MemoryCore
from memrl.cores.neural_memory import NeuralMemory, NeuralMemoryConfig, NeuralMemoryState
from memrl.cores.window_attention import AttentionConfig, WindowAttention
from memrl.types import Array


@dataclasses.dataclass(frozen=True)
class TitansMALConfig(AttentionConfig, NeuralMemoryConfig):
    """Hyperparameters of Titans with memory as a layer."""

    owner: ClassVar[str] = "core titans_mal"

    attention_window: int = 64
    """Past steps that attention sees, besides the step's own."""
    persistent: int = 4
    """Number P of persistent tokens."""

    def check(self) -> None:
        """Raises `MemrlError` for a size or a bound that is out of range."""
        self.check_positive("attention_window")
        super().check()

    @property
    def steps_back(self) -> int:
        """The window of attention."""
        return self.attention_window


class TitansMALState(NamedTuple):
    """What each layer keeps."""

    memory: NeuralMemoryState
    window: Window


class TitansMAL(MemoryCore):
    """Window attention over what a memory that learns at test time read; its state is a `TitansMALState`."""

    parallel: ClassVar[bool] = False
    metrics: ClassVar[tuple[str, ...]] = NeuralMemory.metrics

    def __init__(self, features: int, config: TitansMALConfig = TitansMALConfig(), *, rngs: nnx.Rngs):
        self.features = features
        self.memory = NeuralMemory(features, config, rngs=rngs)
        self.attention = WindowAttention(features, config, rngs=rngs)

    def initial_state(self, batch_size: int) -> TitansMALState:
        """The initial weights, and nothing to look back at."""
        return TitansMALState(self.memory.initial_state(batch_size), self.attention.initial_state(batch_size))

    def unroll(self, state: TitansMALState, xs: Array, resets: Array) -> tuple[TitansMALState, Array]:
        """See `MemoryCore.unroll`."""
        state, ys, _ = self.unroll_with_extras(state, xs, resets)
        return state, ys

    def unroll_with_extras(
        self, state: TitansMALState, xs: Array, resets: Array
    ) -> tuple[TitansMALState, Array, Extras]:
        """See `MemoryCore.unroll_with_extras`."""
        memory, ys, extras = self.memory.unroll_with_extras(state.memory, xs, resets)
        window, os = self.attention.unroll(state.window, ys, resets)
        return TitansMALState(memory, window), os, Extras(os, extras.metrics)

    def attention_map(self, xs: Array, resets: Array) -> Array:
        """See `MemoryCore.attention_map`."""
        _, ys = self.memory.unroll(self.memory.initial_state(xs.shape[1]), xs, resets)
        return self.attention.attention_map(ys, resets)
