"""Titans, memory as a gate (Behrouz, Zhong & Mirrokni 2024, section 4.2): attention and memory side by side.

    y = SW-Attn([p_1 ... p_P || x]),   m = M(x),   o = y * m,   y * m = norm_1(y) . SiLU(norm_2(m))

SW-Attn is window attention with P persistent tokens that every step sees (`memrl.cores.window_attention`), M the neural
memory with its convolutions, output gate and projection (`memrl.cores.titans`), norm_1 and norm_2 divide by the root
mean square and multiply by learned vectors. The paper normalises both with learned vectors, "followed by a
non-linearity", and names none: SiLU is its choice everywhere else, and here it is of the memory's branch, which is the
one that gates.

M reads the persistent tokens before the first step, in the paper. They depend on no data, nor does what they make of
M_init: the weights that an episode starts with are learned here, so that they stand for those after the tokens.

Left out: what else the tokens would leave in M, a momentum and inputs of the convolution, which start at zero.
"""

import dataclasses
from typing import ClassVar, NamedTuple

from flax import nnx

from memrl.cores.attention import Window
from memrl.cores.base import Extras, MemoryCore
from memrl.cores.heads import HeadNorm
from memrl.cores.neural_memory import NeuralMemory, NeuralMemoryConfig, NeuralMemoryState
from memrl.cores.window_attention import AttentionConfig, WindowAttention
from memrl.types import Array


@dataclasses.dataclass(frozen=True)
class TitansMAGConfig(AttentionConfig, NeuralMemoryConfig):
    """Hyperparameters of Titans with memory as a gate."""

    owner: ClassVar[str] = "core titans_mag"

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


class TitansMAGState(NamedTuple):
    """What each branch keeps."""

    window: Window
    memory: NeuralMemoryState


class TitansMAG(MemoryCore):
    """Window attention, gated by a memory that learns at test time; its state is a `TitansMAGState`."""

    parallel: ClassVar[bool] = False
    metrics: ClassVar[tuple[str, ...]] = NeuralMemory.metrics

    def __init__(self, features: int, config: TitansMAGConfig = TitansMAGConfig(), *, rngs: nnx.Rngs):
        self.features = features
        self.attention = WindowAttention(features, config, rngs=rngs)
        self.memory = NeuralMemory(features, config, rngs=rngs)
        self.gate = MemoryGate(features)

    def initial_state(self, batch_size: int) -> TitansMAGState:
        """Nothing to look back at, and the initial weights."""
        return TitansMAGState(self.attention.initial_state(batch_size), self.memory.initial_state(batch_size))

    def unroll(self, state: TitansMAGState, xs: Array, resets: Array) -> tuple[TitansMAGState, Array]:
        """See `MemoryCore.unroll`."""
        state, ys, _ = self.unroll_with_extras(state, xs, resets)
        return state, ys

    def unroll_with_extras(
        self, state: TitansMAGState, xs: Array, resets: Array
    ) -> tuple[TitansMAGState, Array, Extras]:
        """See `MemoryCore.unroll_with_extras`."""
        window, ys = self.attention.unroll(state.window, xs, resets)
        memory, ms, extras = self.memory.unroll_with_extras(state.memory, xs, resets)
        os = self.gate(ys, ms)
        return TitansMAGState(window, memory), os, Extras(os, extras.metrics)

    def attention_map(self, xs: Array, resets: Array) -> Array:
        """See `MemoryCore.attention_map`."""
        return self.attention.attention_map(xs, resets)


class MemoryGate(nnx.Module):
    """norm_1(y) . SiLU(norm_2(m))."""

    def __init__(self, features: int):
        self.attention_norm, self.memory_norm = HeadNorm(1, features), HeadNorm(1, features)

    def __call__(self, ys: Array, ms: Array) -> Array:
        """[T, B, D], twice, to [T, B, D]."""
        ys, ms = self.attention_norm(ys[..., None, :]), self.memory_norm(ms[..., None, :])
        return (ys * nnx.silu(ms))[..., 0, :]
