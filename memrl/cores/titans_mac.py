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
M when it has learnt from the whole segment: no agent could act so. Here t sees h_s for s <= t, and M_t is what it is
after step t. The paper's memory is as wide as x_t; here W_h brings h_t to that width.

Left out: a convolution of the q_t of the first reading; outputs at the places of p and h, which nothing uses.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from memrl.cores.attention import Window, empty_window, look_back
from memrl.cores.base import Extras, Linear, MemoryCore
from memrl.cores.chunk_grid import from_grid, to_grid
from memrl.cores.heads import HeadNorm
from memrl.cores.inner_loop import reached
from memrl.cores.neural_memory import INNER_LOSS, NeuralMemory, NeuralMemoryConfig, NeuralMemoryState
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

    @property
    def steps_back(self) -> int:
        """The rest of a segment."""
        return self.chunk_length - 1


class TitansMACState(NamedTuple):
    """What the segment has left so far, and what the segments before it."""

    window: Window  # keys and values of h_s and of x_s, [B, C - 1, 4 D]
    memory: NeuralMemoryState


class Steps(NamedTuple):
    """What does not depend on the memory; [T, B, ...], or of a segment [C, B, ...]."""

    read: Array  # q_t of the memory [T, B, its inputs] float32
    q: Array  # of attention [T, B, D]
    rows: Array  # keys and values of x_t [T, B, 2 D]
    resets: Array  # [T, B] bool
    begins: Array  # [T, B] bool: the segment or the episode does
    real: Array  # [T, B] bool: it is no left-over place of a segment


class TitansMAC(MemoryCore):
    """Attention over a segment and what a memory knows of it; its state is a `TitansMACState`."""

    parallel: ClassVar[bool] = False
    metrics: ClassVar[tuple[str, ...]] = NeuralMemory.metrics

    def __init__(self, features: int, config: TitansMACConfig = TitansMACConfig(), *, rngs: nnx.Rngs):
        self.features, self.chunk_length, self.window = features, config.chunk_length, config.steps_back
        self.query = Linear(features, config.width, use_bias=False, rngs=rngs)  # W_q
        self.recall_norm = HeadNorm(1, config.width)
        self.recall = Linear(config.width, features, use_bias=False, rngs=rngs)  # W_h
        self.attention = Attention(features, config, rngs=rngs)
        self.memory = NeuralMemory(features, config, rngs=rngs)
        self.gate = MemoryGate(features)

    def initial_state(self, batch_size: int) -> TitansMACState:
        """Nothing to look back at, and the initial weights."""
        window = empty_window(batch_size, self.window, 4 * self.features)
        return TitansMACState(window, self.memory.initial_state(batch_size))

    def unroll(self, state: TitansMACState, xs: Array, resets: Array) -> tuple[TitansMACState, Array]:
        """See `MemoryCore.unroll`."""
        state, ys, _ = self.unroll_with_extras(state, xs, resets)
        return state, ys

    def unroll_with_extras(
        self, state: TitansMACState, xs: Array, resets: Array
    ) -> tuple[TitansMACState, Array, Extras]:
        """See `MemoryCore.unroll_with_extras`."""
        T, C, phase = len(xs), self.chunk_length, state.memory.memory.phase
        read = self.memory.addresses(nnx.silu(self.query(xs).astype(jnp.float32)))
        begins = resets | ((phase[None] + jnp.arange(T)[:, None]) % C == 0)
        steps = Steps(read, *self.attention.queries_and_rows(xs), resets, begins, jnp.ones_like(resets))
        if T == 1:  # so that a step does not cost a segment
            memory, (recalled, os, losses) = self._segment(state.memory, state.window, steps)
        else:
            memory, out = self._segments(state, jax.tree.map(lambda x: _to_segments(x, phase, C), steps))
            recalled, os, losses = jax.tree.map(lambda x: _from_segments(x, phase, T), out)
        rows = jnp.concatenate([recalled, steps.rows], -1)
        window, _ = look_back(state.window, jnp.swapaxes(rows, 0, 1), begins)
        losses = jnp.where(reached(~jnp.isfinite(xs).all(-1), resets), 0, losses)
        return TitansMACState(window, memory), os, Extras(os, {INNER_LOSS: jnp.mean(losses)})

    def _segments(self, state: TitansMACState, steps: Steps) -> tuple[NeuralMemoryState, tuple[Array, Array, Array]]:
        """Segments, leaves [M, C, B, ...]: the memory, and of each what `_segment` gives of one."""

        def segment(memory: NeuralMemoryState, steps: Steps):
            # Only the first can see the window: the others begin with their first steps.
            return self._segment(memory, state.window, steps)

        def idle(memory: NeuralMemoryState, steps: Steps):
            nothing = jnp.zeros_like(steps.real, jnp.float32)
            return memory, (jnp.zeros_like(steps.rows), jnp.zeros_like(steps.q), nothing)

        # The last one is often empty: when all rows are at the start of a segment, and C divides T.
        return lax.scan(
            jax.checkpoint(lambda memory, now: lax.cond(jnp.any(now.real), segment, idle, memory, now)),
            state.memory,
            steps,
        )

    def _segment(
        self, memory: NeuralMemoryState, window: Window, steps: Steps
    ) -> tuple[NeuralMemoryState, tuple[Array, Array, Array]]:
        """At most C steps, of which those that are real come first.

        Returns:
            The memory after them; keys and values of h [C, B, 2 D], outputs [C, B, D] and the memory's losses [C, B].
        """
        h = self.memory.inner_loop.recall(memory.memory, steps.read, steps.resets)
        h = self.recall_norm(h[..., None, :])[..., 0, :].astype(steps.q.dtype)
        recalled = self.attention.rows(self.recall(h))
        rows = jnp.concatenate([recalled, steps.rows], -1)
        _, view = look_back(window, jnp.swapaxes(rows, 0, 1), steps.begins | ~steps.real)
        ys = self.attention.look(jnp.swapaxes(steps.q, 0, 1), view)
        ys = self.attention.output(jnp.swapaxes(ys, 0, 1))
        memory, ms, losses = self.memory.within_chunk(memory, ys, steps.resets, steps.real)
        return memory, (recalled, self.gate(ys, ms), losses)


def _to_segments(x: Array, phase: Array, C: int) -> Array:
    """Steps `x` [T, B, ...] as the segments that they are in, [M, C, B, ...], each from its first step on.

    Places that are left over are zero: at the end of the first, which had begun before, and of the last ones.
    """
    x_first = x[:C]
    real = phase[None] + jnp.arange(len(x_first))[:, None] < C
    x_first = jnp.where(real.reshape(*real.shape, *(1,) * (x.ndim - 2)), x_first, jnp.zeros_like(x_first))
    x_first = jnp.pad(x_first, ((0, C - len(x_first)), *((0, 0) for _ in x.shape[1:])))
    return jnp.concatenate([x_first[None], to_grid(x, phase, C)[1:].swapaxes(1, 2)])


def _from_segments(x: Array, phase: Array, T: int) -> Array:
    """What `_to_segments` laid out: `x` [M, C, B, ...] as [T, B, ...]."""
    C = x.shape[1]
    of_first = phase[None] + jnp.arange(T)[:, None] < C
    first = jnp.pad(x[0, :T], ((0, max(0, T - C)), *((0, 0) for _ in x.shape[2:])))
    of_first = of_first.reshape(*of_first.shape, *(1,) * (x.ndim - 3))
    return jnp.where(of_first, first, from_grid(x.swapaxes(1, 2), phase, T))
