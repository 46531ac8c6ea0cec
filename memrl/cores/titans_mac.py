"""Titans, memory as context (Behrouz, Zhong & Mirrokni 2024, section 4.1): attention decides what the memory learns.

Time is cut into segments of C steps. With M_{n-1} the memory's weights when segment n begins, or M_init where an
episode has begun in that segment, and s <= t the steps of t's segment and episode:

    q_t = SiLU(W_q x_t) scaled to length 1,   h_t = W_h norm(M_{n-1}(q_t))
    y_t = Attn(x_t; [p_1 ... p_P || h_s || x_s])
    m_t = M_t(y_t), which has learnt from y_t,   o_t = y_t * m_t = norm_1(y_t) . SiLU(norm_2(m_t))

Attn is multi-head attention with rotary positions, h_s at that of x_s, and P persistent tokens of none, which every
step sees (`memrl.cores.window_attention`); M the neural memory, its inputs the y_t, its chunks the segments
(`memrl.cores.titans`); the gate is that of `memrl.cores.titans_mag`. Segments lie on a grid that episodes do not move.

The paper puts all h of a segment before its steps, so that a step would see what was recalled for later ones, and reads
M when it has learnt from the whole segment: no agent could act so. Here t sees h_s and M_s for s <= t alone. The paper's
h_t is as wide as x_t, here of the memory's width, whence W_h.

Left out: a convolution of the q_t of the first reading; outputs at the places of p and h, which nothing uses.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from memrl.cores.attention import Window, empty_window, look_back
from memrl.cores.base import Linear, MemoryCore
from memrl.cores.chunk_grid import from_grid, to_grid
from memrl.cores.heads import HeadNorm, unit
from memrl.cores.neural_memory import NeuralMemory, NeuralMemoryConfig, NeuralMemoryState
from memrl.cores.titans_mag import MemoryGate
from memrl.cores.window_attention import Attention, AttentionConfig
from memrl.types import Array


@dataclasses.dataclass(frozen=True)
class TitansMACConfig(AttentionConfig, NeuralMemoryConfig):
    """Hyperparameters of Titans with memory as context."""

    owner: ClassVar[str] = "core titans_mac"

    chunk_length: int = 16
    """Steps C of a segment, which attention sees at most, and between the weights that gradients are taken at."""
    persistent: int = 4
    """Number P of persistent tokens."""


class TitansMACState(NamedTuple):
    """What the segment has left so far, and what the segments before it."""

    window: Window  # keys and values of h_s and of x_s, [B, C - 1, 4 D]
    memory: NeuralMemoryState


class Steps(NamedTuple):
    """What does not depend on the memory; [T, B, ...], or [C, B, ...] of a segment."""

    read: Array  # q_t of the memory [T, B, d] float32
    q: Array  # of attention [T, B, D]
    rows: Array  # keys and values of x_t [T, B, 2 D]
    resets: Array  # [T, B] bool
    begins: Array  # [T, B] bool: the segment or the episode does
    real: Array  # [T, B] bool: the step is in the segment


class TitansMAC(MemoryCore):
    """Attention over a segment and what a memory knows of it; its state is a `TitansMACState`."""

    parallel: ClassVar[bool] = False

    def __init__(self, features: int, config: TitansMACConfig = TitansMACConfig(), *, rngs: nnx.Rngs):
        self.features, self.chunk_length = features, config.chunk_length
        self.query = Linear(features, config.width, use_bias=False, rngs=rngs)  # W_q
        self.recall_norm = HeadNorm(1, config.width)
        self.recall = Linear(config.width, features, use_bias=False, rngs=rngs)  # W_h
        self.attention = Attention(features, config, rngs=rngs)
        self.memory = NeuralMemory(features, config, rngs=rngs)
        self.gate = MemoryGate(features)

    def initial_state(self, batch_size: int) -> TitansMACState:
        """Nothing to look back at, and the initial weights."""
        return TitansMACState(self._no_window(batch_size), self.memory.initial_state(batch_size))

    def unroll(self, state: TitansMACState, xs: Array, resets: Array) -> tuple[TitansMACState, Array]:
        """See `MemoryCore.unroll`."""
        (T, B), C, phase = resets.shape, self.chunk_length, state.memory.memory.phase
        read = unit(nnx.silu(self.query(xs).astype(jnp.float32)))
        place = phase[None] + jnp.arange(T)[:, None]  # 0 to C - 1 in the segment that has begun
        steps = Steps(read, *self.attention.queries_and_rows(xs), resets, resets | (place % C == 0), place < C)
        # What is left of the segment that has begun comes first, by itself, so that a step does not cost a segment.
        first = jax.tree.map(lambda x: _where(steps.real[:C], x[:C]), steps)
        memory, recalled, os = self._segment(state.memory, state.window, first)
        if T > 1:
            steps = steps._replace(real=jnp.ones_like(steps.real))
            later = jax.tree.map(lambda x: to_grid(x, phase, C)[1:].swapaxes(1, 2), steps)
            memory, out = self._segments(memory, later)
            recalled, os = (
                jnp.where((place < C)[..., None], _padded(x, T), _from_later(xs, phase, T))
                for x, xs in zip((recalled, os), out, strict=True)
            )
        rows = jnp.concatenate([recalled, steps.rows], -1)
        window, _ = look_back(state.window, jnp.swapaxes(rows, 0, 1), steps.begins)
        return TitansMACState(window, memory), os

    def _segments(self, memory: NeuralMemoryState, steps: Steps) -> tuple[NeuralMemoryState, tuple[Array, Array]]:
        """Segments from their starts on, leaves [M, C, B, ...]; the rows of h and the outputs are [M, C, B, ...]."""
        nothing = self._no_window(steps.real.shape[-1])

        def segment(memory: NeuralMemoryState, steps: Steps):
            memory, *out = self._segment(memory, nothing, steps)
            return memory, tuple(out)

        def idle(memory: NeuralMemoryState, steps: Steps):
            return memory, (jnp.zeros_like(steps.rows), jnp.zeros_like(steps.q))

        # The last one is often empty: when all rows are at the start of a segment, and C divides T.
        return lax.scan(
            jax.checkpoint(lambda memory, now: lax.cond(jnp.any(now.real), segment, idle, memory, now)), memory, steps
        )

    def _segment(
        self, memory: NeuralMemoryState, window: Window, steps: Steps
    ) -> tuple[NeuralMemoryState, Array, Array]:
        """Steps of one segment: keys and values of h [T, B, 2 D], and outputs."""
        h = self.memory.inner_loop.recall(memory.memory, steps.read, steps.resets)
        h = self.recall_norm(h[..., None, :])[..., 0, :].astype(steps.q.dtype)
        recalled = self.attention.rows(self.recall(h))
        rows = jnp.concatenate([recalled, steps.rows], -1)
        _, view = look_back(window, jnp.swapaxes(rows, 0, 1), steps.begins)
        ys = self.attention.look(jnp.swapaxes(steps.q, 0, 1), view)
        ys = self.attention.output(jnp.swapaxes(ys, 0, 1))
        memory, ms = self.memory.within_chunk(memory, ys, steps.resets, steps.real)
        return memory, recalled, self.gate(ys, ms)

    def _no_window(self, batch_size: int) -> Window:
        return empty_window(batch_size, self.chunk_length - 1, 4 * self.features)


def _where(condition: Array, x: Array) -> Array:
    """`x` [T, B, ...] where the condition [T, B] holds, else zeros."""
    return jnp.where(condition.reshape(*condition.shape, *(1,) * (x.ndim - 2)), x, jnp.zeros_like(x))


def _padded(x: Array, T: int) -> Array:
    """`x` [at most T, B, F] with zeros after its end."""
    return jnp.pad(x, ((0, T - len(x)), (0, 0), (0, 0)))


def _from_later(x: Array, phase: Array, T: int) -> Array:
    """Segments [M, C, B, F] of a grid that lacks its first as steps [T, B, F]; those of the first are zeros."""
    return from_grid(jnp.pad(x.swapaxes(1, 2), ((1, 0), (0, 0), (0, 0), (0, 0))), phase, T)
