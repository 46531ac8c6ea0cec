"""Gated linear attention on NVIDIA GPUs: Pallas kernels for its Triton back end.

A program owns one head of one row of the batch and a tile of the values' channels. It walks from chunk to chunk of C
steps, with the state [K, V] in registers, and reads and writes [T, B, H, ...] where it lies. With c_i the sum of the
chunk's log decays up to step i, scores_ij = q_i . exp(c_i - c_j) k_j for pairs j <= i of one segment, and no reset yet
(or none to come) where S_0 is read (or S_C written):

    o_i = sum_j scores_ij v_j + (exp(c_i) q_i) S_0,    S_C = exp(c_C) S_0 + sum_j (exp(c_C - c_j) k_j) v_j^T.

The backward pass is one kernel that walks twice, because dq needs the states and dk, dv need their cotangents:

    forwards, with S:    dq_i = sum_j dscores_ij exp(c_i - c_j) k_j + exp(c_i) S_0 do_i,    dscores_ij = do_i . v_j
    backwards, with dS:  dk_j = sum_i dscores_ij exp(c_i - c_j) q_i + exp(c_C - c_j) dS_C v_j,
                         dv_j = sum_i scores_ij do_i + (exp(c_C - c_j) k_j) dS_C.

So no state is ever stored, and the second walk finds in the cache what the first one read. q_i meets exp(c_i) wherever
it enters and k_j exp(-c_j), so that dc_i = q_i dq_i - k_i dk_i in each channel; a step's log decay is part of c in all
later steps of its segment and in what reaches the last state, and its gradient the sum of theirs.

All exponents are sums of log decays and at most 0. Resets are selections.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from memrl.types import Array

# Not tuned on a card yet. Tiles are small, so that what a program shares between its threads fits on any card.
STEPS = 64  # of a chunk, at most, where a head has one decay
CHANNEL_STEPS = 16  # of a chunk where each channel has its own: scores are formed one key at a time
VALUES = 64  # channels of a tile, at most
TILE = 2048  # numbers in keys or values of a chunk, [C, K or V], forwards
BACKWARD_TILE = 1024
STATE = 4096  # numbers in a state [K, V]
SMALLEST = 16  # of a matrix product in each direction
PROGRAMS = 512  # wanted on a card, for which values are cut into smaller tiles
NUM_WARPS = 4
BACKWARD_WARPS = 8  # 4 spill registers
NUM_STAGES = 2
# A float32 is two TF32 numbers and a rest of 2^-22: three products on tensor cores in place of one by scalar units,
# for which the backward pass needs more registers than there are by a factor of 30.
PRECISION = lax.DotAlgorithmPreset.TF32_TF32_F32_X3


def forward(
    q: Array,
    k: Array,
    v: Array,
    log_decay: Array,
    s0: Array,
    reset: Array,
    *,
    chunk_size: int,
    interpret: bool = False,
) -> tuple[Array, Array]:
    """o [T, B, H, V] in v's dtype and the last state [B, H, K, V].

    Args:
        q, k: [T, B, H, K], T at least 1; finite, like all others.
        v: [T, B, H, V].
        log_decay: [T, B, H, K] or [T, B, H, 1], at most 0.
        s0: [B, H, K, V], float32.
        reset: [T, B] bool.
        chunk_size: steps of a chunk, if that is a size that suits the card.
        interpret: run by JAX's interpreter, on any platform.
    """
    tiling = _Tiling(q, v, log_decay, chunk_size, TILE, interpret)

    def kernel(q_ref, k_ref, v_ref, decay_ref, s0_ref, reset_ref, o_ref, last_ref):
        tile = _Tile(tiling)
        decay = _decay(tile, decay_ref, k_ref)

        def chunk(m, s):
            q, k, v = tile.load_keys(q_ref, m), tile.load_keys(k_ref, m), tile.load_values(v_ref, m)
            parts = tile.segments(reset_ref, m)
            c, scores = decay.scores(m, q, k, parts)
            edges = _edges(c, parts)
            tile.store_values(o_ref, m, tile.dot(scores, v) + tile.dot(edges.read * q, s))
            return edges.kept * s + tile.dot(edges.written * k, v, transpose_a=True)

        s_last = lax.fori_loop(0, tiling.M, chunk, tile.load_state(s0_ref))
        tile.store_state(last_ref, s_last)

    sequence = [tiling.keys_spec(), tiling.keys_spec(), tiling.values_spec(), tiling.decays_spec()]
    like = jax.ShapeDtypeStruct
    o, s_last = _call(
        kernel,
        tiling,
        [q, k, v, tiling.decays(log_decay), s0, reset.astype(jnp.int8)],
        [*sequence, tiling.state_spec(), tiling.reset_spec()],
        [like(v.shape, v.dtype), like(s0.shape, s0.dtype)],
        [tiling.values_spec(), tiling.state_spec()],
        NUM_WARPS,
    )
    return o, s_last


def backward(
    q: Array,
    k: Array,
    v: Array,
    log_decay: Array,
    s0: Array,
    reset: Array,
    do: Array,
    ds_last: Array,
    *,
    chunk_size: int,
    interpret: bool = False,
) -> tuple[Array, Array, Array, Array, Array]:
    """Gradients of q, k, v and log_decay, in their dtypes, and of s0. That of log_decay is nonsense at resets."""
    tiling = _Tiling(q, v, log_decay, chunk_size, BACKWARD_TILE, interpret)

    def kernel(*refs):
        q_ref, k_ref, v_ref, decay_ref, s0_ref, reset_ref, do_ref, ds_last_ref, *refs = refs
        dq_ref, dk_ref, dv_ref, d_decay_ref, ds0_ref = refs
        tile = _Tile(tiling)
        decay = _decay(tile, decay_ref, k_ref)

        def queries(m, s):
            k, v, do = tile.load_keys(k_ref, m), tile.load_values(v_ref, m), tile.load_values(do_ref, m)
            parts = tile.segments(reset_ref, m)
            d_scores = jnp.where(parts.pairs, tile.dot(do, v, transpose_b=True), 0.0)
            c, dq = decay.dq(m, k, d_scores, parts)
            edges = _edges(c, parts)
            tile.store_keys(dq_ref, m, dq + edges.read * tile.dot(do, s, transpose_b=True))
            return edges.kept * s + tile.dot(edges.written * k, v, transpose_a=True)

        s_last = lax.fori_loop(0, tiling.M, queries, tile.load_state(s0_ref))
        if not interpret:
            triton.debug_barrier()  # the second walk reads dq by threads that need not be those that wrote it

        def keys(n, carry):
            ds, flow = carry  # flow [K]: the sum of dc over the steps after the chunk that are of its last segment
            m = tiling.M - 1 - n
            q, k = tile.load_keys(q_ref, m), tile.load_keys(k_ref, m)
            v, do = tile.load_values(v_ref, m), tile.load_values(do_ref, m)
            parts = tile.segments(reset_ref, m)
            d_scores = jnp.where(parts.pairs, tile.dot(do, v, transpose_b=True), 0.0)
            c, scores, dk = decay.scores_and_dk(m, q, k, d_scores, parts)
            edges = _edges(c, parts)
            dk = dk + edges.written * tile.dot(v, ds, transpose_b=True)
            dv = tile.dot(scores, do, transpose_a=True) + tile.dot(edges.written * k, ds)
            dc = q * tile.load_keys(dq_ref, m) - k * dk
            tile.store_keys(dk_ref, m, dk)
            tile.store_values(dv_ref, m, dv)
            decay.store_gradient(d_decay_ref, m, dc, flow, parts)
            flow = jnp.where(parts.unbroken, flow, 0.0) + jnp.sum(jnp.where(parts.carried[:, None], dc, 0.0), 0)
            return edges.kept * ds + tile.dot(edges.read * q, do, transpose_a=True), flow

        ds_last = tile.load_state(ds_last_ref)
        ds, _ = lax.fori_loop(0, tiling.M, keys, (ds_last, jnp.sum(s_last * ds_last, 1)))
        tile.store_state(ds0_ref, ds)

    sequence = [tiling.keys_spec(), tiling.keys_spec(), tiling.values_spec(), tiling.decays_spec()]
    d_sequence = [tiling.keys_spec(True), tiling.keys_spec(True), tiling.values_spec(), tiling.decays_spec(True)]
    state = tiling.state_spec()
    like = jax.ShapeDtypeStruct
    shapes = (q.shape, k.shape, tiling.decays(log_decay).shape)
    dq, dk, d_decay = (like((tiling.tiles, *shape), jnp.float32) for shape in shapes)
    dq, dk, dv, d_decay, ds0 = _call(
        kernel,
        tiling,
        [q, k, v, tiling.decays(log_decay), s0, reset.astype(jnp.int8), do, ds_last],
        [*sequence, state, tiling.reset_spec(), tiling.values_spec(), state],
        [dq, dk, like(v.shape, v.dtype), d_decay, like(s0.shape, s0.dtype)],
        [*d_sequence, state],
        BACKWARD_WARPS,
    )
    # Tiles of values each have their part in what they share.
    dq, dk, d_decay = (
        x.sum(0).astype(of.dtype).reshape(of.shape) for x, of in ((dq, q), (dk, k), (d_decay, log_decay))
    )
    return dq, dk, dv, d_decay, ds0


class _Tiling:
    """The heads and the channels of their values dealt out to programs; extents in registers are powers of two."""

    def __init__(self, q: Array, v: Array, log_decay: Array, chunk_size: int, numbers: int, interpret: bool):
        self.T, self.B, self.H, self.K = q.shape
        self.V = v.shape[-1]
        self.by_channel = log_decay.shape[-1] > 1
        self.keys = max(SMALLEST, pl.next_power_of_2(self.K))
        self.values = max(SMALLEST, min(pl.next_power_of_2(self.V), VALUES, STATE // self.keys))
        while self.values > SMALLEST and self.B * self.H * self.tiles < PROGRAMS:
            self.values //= 2
        if self.by_channel:
            self.C = CHANNEL_STEPS
        else:
            asked = pl.next_power_of_2(min(chunk_size, self.T))
            self.C = max(SMALLEST, min(asked, STEPS, numbers // max(self.keys, self.values)))
        self.M = pl.cdiv(self.T, self.C)
        self.interpret = interpret
        self.precision = lax.Precision.HIGHEST if interpret else PRECISION  # a CPU has no other

    @property
    def tiles(self) -> int:
        """Of values, in a head."""
        return pl.cdiv(self.V, self.values)

    @property
    def grid(self) -> tuple[int, int, int]:
        return self.B, self.H, self.tiles

    def decays(self, log_decay: Array) -> Array:
        """[T, B, H, K], or [T, B, H] where a head has one."""
        return log_decay if self.by_channel else log_decay.reshape(log_decay.shape[:3])

    def keys_spec(self, partial: bool = False) -> pl.BlockSpec:
        """The program's part of [T, B, H, K], or of [tiles, T, B, H, K]."""
        shape = (self.M * self.C, None, None, self.keys)
        if partial:
            return pl.BlockSpec((None, *shape), lambda b, h, n: (n, 0, b, h, 0))
        return pl.BlockSpec(shape, lambda b, h, n: (0, b, h, 0))

    def decays_spec(self, partial: bool = False) -> pl.BlockSpec:
        """The same of log decays."""
        if self.by_channel:
            return self.keys_spec(partial)
        shape = (self.M * self.C, None, None)
        if partial:
            return pl.BlockSpec((None, *shape), lambda b, h, n: (n, 0, b, h))
        return pl.BlockSpec(shape, lambda b, h, n: (0, b, h))

    def values_spec(self) -> pl.BlockSpec:
        """The program's part of [T, B, H, V]."""
        return pl.BlockSpec((self.M * self.C, None, None, self.values), lambda b, h, n: (0, b, h, n))

    def state_spec(self) -> pl.BlockSpec:
        """The program's part of [B, H, K, V]."""
        return pl.BlockSpec((None, None, self.keys, self.values), lambda b, h, n: (b, h, 0, n))

    def reset_spec(self) -> pl.BlockSpec:
        """The program's part of [T, B]."""
        return pl.BlockSpec((self.M * self.C, None), lambda b, h, n: (0, b))


class _Segments(NamedTuple):
    """The segments between resets in a chunk; see `memrl.kernels.chunks.Segments`."""

    pairs: Array  # [C, C] bool: step i sees step j <= i
    carried: Array  # [C] bool: no reset yet
    last: Array  # [C] bool: no reset follows
    unbroken: Array  # [] bool


class _Tile:
    """The head and the values of the program that runs; nothing is read or written beyond the arrays' edges."""

    def __init__(self, tiling: _Tiling):
        self.tiling = tiling
        self.steps = jnp.arange(tiling.C)
        self.keys = jnp.arange(tiling.keys) < tiling.K
        self.values = pl.program_id(2) * tiling.values + jnp.arange(tiling.values) < tiling.V
        self.state = self.keys[:, None] & self.values[None, :]

    def load_keys(self, ref: Any, m: Array) -> Array:
        """Chunk m of [T, K], float32, zero beyond the edges."""
        return self._load(ref, m, self.keys)

    def load_values(self, ref: Any, m: Array) -> Array:
        """Chunk m of [T, V]."""
        return self._load(ref, m, self.values)

    def load_steps(self, ref: Any, m: Array) -> Array:
        """Chunk m of [T]."""
        return triton.load(self._chunk(ref, m), mask=self._inside(m), other=0).astype(jnp.float32)

    def load_key(self, ref: Any, t: Array) -> Array:
        """Step t of [T, K]."""
        mask = self.keys & (t < self.tiling.T)
        return triton.load(ref.at[t], mask=mask, other=0).astype(jnp.float32)

    def store_keys(self, ref: Any, m: Array, x: Array) -> None:
        """Writes chunk m of [T, K]."""
        self._store(ref, m, x, self.keys)

    def store_values(self, ref: Any, m: Array, x: Array) -> None:
        """Writes chunk m of [T, V]."""
        self._store(ref, m, x, self.values)

    def store_steps(self, ref: Any, m: Array, x: Array) -> None:
        """Writes chunk m of [T]."""
        triton.store(self._chunk(ref, m), x.astype(ref.dtype), mask=self._inside(m))

    def load_state(self, ref: Any) -> Array:
        """[K, V]."""
        return triton.load(ref, mask=self.state, other=0)

    def store_state(self, ref: Any, s: Array) -> None:
        """Writes [K, V]."""
        triton.store(ref, s, mask=self.state)

    def segments(self, reset_ref: Any, m: Array) -> _Segments:
        """Of chunk m. Steps after the end belong to the last segment, to which they add nothing."""
        reset = triton.load(self._chunk(reset_ref, m), mask=self._inside(m), other=0).astype(jnp.int32)
        number, resets = jnp.cumsum(reset), jnp.sum(reset)
        earlier = self.steps[:, None] >= self.steps[None, :]
        return _Segments((number[:, None] == number[None, :]) & earlier, number == 0, number == resets, resets == 0)

    def dot(self, a: Array, b: Array, *, transpose_a: bool = False, transpose_b: bool = False) -> Array:
        """a b, or a^T b, or a b^T."""
        contracted = ((0 if transpose_a else 1,), (1 if transpose_b else 0,))
        return lax.dot_general(a, b, (contracted, ((), ())), precision=self.tiling.precision)

    def _load(self, ref: Any, m: Array, columns: Array) -> Array:
        mask = self._inside(m)[:, None] & columns[None, :]
        return triton.load(self._chunk(ref, m), mask=mask, other=0).astype(jnp.float32)

    def _store(self, ref: Any, m: Array, x: Array, columns: Array) -> None:
        mask = self._inside(m)[:, None] & columns[None, :]
        triton.store(self._chunk(ref, m), x.astype(ref.dtype), mask=mask)

    def _chunk(self, ref: Any, m: Array) -> Any:
        return ref.at[pl.ds(m * self.tiling.C, self.tiling.C)]

    def _inside(self, m: Array) -> Array:
        return m * self.tiling.C + self.steps < self.tiling.T


def _decay(tile: _Tile, log_decay_ref: Any, k_ref: Any) -> "_DecayByHead | _DecayByChannel":
    kind = _DecayByChannel if tile.tiling.by_channel else _DecayByHead
    return kind(tile, log_decay_ref, k_ref)


class _DecayByHead:
    """One for all channels: exp(c_i - c_j) is a matrix over pairs of steps."""

    def __init__(self, tile: _Tile, log_decay_ref: Any, k_ref: Any):
        del k_ref
        self.tile, self.log_decay_ref = tile, log_decay_ref

    def scores(self, m: Array, q: Array, k: Array, parts: _Segments) -> tuple[Array, Array]:
        """c [C, 1] and q_i . exp(c_i - c_j) k_j, [C, C]."""
        c, decays = self._decays(m, parts)
        return c, self.tile.dot(q, k, transpose_b=True) * decays

    def dq(self, m: Array, k: Array, d_scores: Array, parts: _Segments) -> tuple[Array, Array]:
        """c and the part of dq [C, K] from scores."""
        c, decays = self._decays(m, parts)
        return c, self.tile.dot(d_scores * decays, k)

    def scores_and_dk(
        self, m: Array, q: Array, k: Array, d_scores: Array, parts: _Segments
    ) -> tuple[Array, Array, Array]:
        """c, scores and the part of dk [C, K] from them."""
        c, decays = self._decays(m, parts)
        return c, self.tile.dot(q, k, transpose_b=True) * decays, self.tile.dot(d_scores * decays, q, transpose_a=True)

    def store_gradient(self, ref: Any, m: Array, dc: Array, flow: Array, parts: _Segments) -> None:
        """Of the log decays: sums of dc [C, K] over later steps of the segment, and flow [K] after the chunk."""
        later = jnp.where(parts.pairs, jnp.sum(dc, 1)[:, None], 0.0)
        self.tile.store_steps(ref, m, jnp.sum(later, 0) + jnp.where(parts.last, jnp.sum(flow), 0.0))

    def _decays(self, m: Array, parts: _Segments) -> tuple[Array, Array]:
        c = jnp.cumsum(self.tile.load_steps(self.log_decay_ref, m))
        between = jnp.where(parts.pairs, c[:, None] - c[None, :], 0.0)
        return c[:, None], jnp.where(parts.pairs, jnp.exp(between), 0.0)


class _DecayByChannel:
    """One for each channel: exp(c_i - c_j) is formed for all steps i and channels, one key j at a time."""

    def __init__(self, tile: _Tile, log_decay_ref: Any, k_ref: Any):
        self.tile, self.log_decay_ref, self.k_ref = tile, log_decay_ref, k_ref

    def scores(self, m: Array, q: Array, k: Array, parts: _Segments) -> tuple[Array, Array]:
        """c [C, K] and q_i . exp(c_i - c_j) k_j, [C, C]."""
        del k

        def key(j, k_j, decay, scores):
            return self._with_column(scores, j, jnp.sum(q * decay * k_j, 1))

        c, scores = self._over_keys(m, key, jnp.zeros(parts.pairs.shape, jnp.float32))
        return c, jnp.where(parts.pairs, scores, 0.0)

    def dq(self, m: Array, k: Array, d_scores: Array, parts: _Segments) -> tuple[Array, Array]:
        """c and the part of dq [C, K] from scores."""
        del parts

        def key(j, k_j, decay, dq):
            return dq + self._column(d_scores, j) * decay * k_j

        return self._over_keys(m, key, jnp.zeros(k.shape, jnp.float32))

    def scores_and_dk(
        self, m: Array, q: Array, k: Array, d_scores: Array, parts: _Segments
    ) -> tuple[Array, Array, Array]:
        """c, scores and the part of dk [C, K] from them."""

        def key(j, k_j, decay, carry):
            scores, dk = carry
            decayed = q * decay
            scores = self._with_column(scores, j, jnp.sum(decayed * k_j, 1))
            dk_j = jnp.sum(self._column(d_scores, j) * decayed, 0)
            return scores, jnp.where(self.tile.steps[:, None] == j, dk_j[None, :], dk)

        carry = jnp.zeros(parts.pairs.shape, jnp.float32), jnp.zeros(k.shape, jnp.float32)
        c, (scores, dk) = self._over_keys(m, key, carry)
        return c, jnp.where(parts.pairs, scores, 0.0), dk

    def store_gradient(self, ref: Any, m: Array, dc: Array, flow: Array, parts: _Segments) -> None:
        """Of the log decays: sums of dc [C, K] over later steps of the segment, and flow [K] after the chunk."""
        later = self.tile.dot(jnp.where(parts.pairs, 1.0, 0.0), dc, transpose_a=True)
        self.tile.store_keys(ref, m, later + jnp.where(parts.last[:, None], flow[None, :], 0.0))

    def _over_keys(self, m: Array, key: Callable, carry: Any) -> tuple[Array, Any]:
        """c, and carry = key(j, k_j [1, K], decay [C, K], carry) from the last step to the first.

        decay is exp(c_i - c_j) in rows i > j and 1 in others, its exponent a sum without differences.
        """
        tiling, steps = self.tile.tiling, self.tile.steps[:, None]

        def body(n, state):
            since, carry = state
            j = tiling.C - 1 - n
            t = m * tiling.C + j
            carry = key(j, self.tile.load_key(self.k_ref, t)[None, :], jnp.exp(since), carry)
            log_decay = self.tile.load_key(self.log_decay_ref, t)[None, :]
            return since + jnp.where(steps >= j, log_decay, 0.0), carry

        return lax.fori_loop(0, tiling.C, body, (jnp.zeros((tiling.C, tiling.keys), jnp.float32), carry))

    def _column(self, x: Array, j: Array) -> Array:
        """[C, 1] of [C, C]."""
        return jnp.sum(jnp.where(self.tile.steps[None, :] == j, x, 0.0), 1)[:, None]

    def _with_column(self, x: Array, j: Array, column: Array) -> Array:
        return jnp.where(self.tile.steps[None, :] == j, column[:, None], x)


class _Edges(NamedTuple):
    """How a chunk meets the states before and after it, [.., K] or [.., 1]; zero where a reset stands between."""

    read: Array  # [C, K]: of the state before, by each step
    written: Array  # [C, K]: by each step, of the state after
    kept: Array  # [K, 1]: of the state before in the state after


def _edges(c: Array, parts: _Segments) -> _Edges:
    C = c.shape[0]
    total = jnp.sum(jnp.where(jnp.arange(C)[:, None] == C - 1, c, 0.0), 0)
    return _Edges(
        jnp.where(parts.carried[:, None], jnp.exp(c), 0.0),
        jnp.where(parts.last[:, None], jnp.exp(total[None, :] - c), 0.0),
        jnp.where(parts.unbroken, jnp.exp(total), 0.0)[:, None],
    )


def _call(
    kernel: Callable,
    tiling: _Tiling,
    inputs: Sequence[Array],
    in_specs: Sequence[pl.BlockSpec],
    outputs: Sequence[jax.ShapeDtypeStruct],
    out_specs: Sequence[pl.BlockSpec],
    num_warps: int,
) -> Sequence:
    return pl.pallas_call(
        kernel,
        out_shape=outputs,
        grid=tiling.grid,
        in_specs=in_specs,
        out_specs=out_specs,
        compiler_params=triton.CompilerParams(num_warps=num_warps, num_stages=NUM_STAGES),
        interpret=tiling.interpret,
    )(*inputs)
