"""The gated delta rule on NVIDIA GPUs: Pallas kernels for its Triton back end.

A program owns one head of one batch row and a tile of the values' columns, and walks through the chunks with the state
in registers, so that a chunk's system, its inverse and what it writes never leave the chip. The backward pass walks
back with the state's gradient in registers, from the states that the forward pass left at the chunks' starts. Where the
columns need several tiles, gradients that the tiles share (of q, k, beta and log_decay) are summed outside.

Row r of the sequence is Householder step r % n of token r // n: the first step of a token decays, the last is read.
With c the sums of a chunk's log decays, D_ij = exp(c_i - c_j) where no reset lies between and seen_i = exp(c_i) where
no reset came yet in the chunk, both 0 elsewhere, the rows of a chunk are

    L_ij = beta_i (k_i . k_j) D_ij, j < i        e_i = v_i - seen_i S_0^T k_i        u = (I + L)^-1 (beta e)
    A_ij = (q_i . k_j) D_ij, j <= i              o_i = sum_j A_ij u_j + seen_i S_0^T q_i.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from memrl.types import Array

# Not tuned on a card yet.
MAX_ROWS = 16  # of a chunk: with more, the work for a row grows and registers run out, but fewer states are stored
STATE = 2 * 64 * 64  # numbers of a state that a program keeps in registers, in the backward pass twice
STATE_OF_WARP = 32 * 32
NUM_STAGES = 2

# Three products of TF32 are as precise as one of float32 and run on the matrix units. Those of float32 itself, of
# "highest" precision, do not, and Triton unrolls them until most registers are spilled.
PRECISION = lax.DotAlgorithmPreset.TF32_TF32_F32_X3
SMALLEST = 16  # dimension of a matrix product


def forward(
    q: Array,
    k: Array,
    v: Array,
    beta: Array,
    log_decay: Array,
    s0: Array,
    reset: Array,
    *,
    chunk_size: int,
    keep_states: bool = False,
    interpret: bool = False,
) -> tuple[Array, ...]:
    """o [T, B, H, V] in v's dtype and s_last like s0; with `keep_states` the states before the chunks as well.

    Args:
        q: [T, B, H, K], finite like all others, no axis empty.
        k: [T, B, H, n, K].
        v: [T, B, H, n, V].
        beta: [T, B, H, n].
        log_decay: [T, B, H], 0 where a reset is.
        s0: [B, H, K, V], float32.
        reset: [T, B] bool.
        chunk_size: tokens; a chunk has at most MAX_ROWS rows.
        keep_states: whether to return the states before the M chunks, [M, B, H, K, V].
        interpret: run by JAX's interpreter, on any platform.
    """
    tiling = _Tiling(q, v, chunk_size)

    def kernel(q_ref, k_ref, v_ref, beta_ref, log_decay_ref, reset_ref, s0_ref, o_ref, s_last_ref, *states_refs):
        tile = _Tile(tiling, interpret)

        def step(m, s):
            for ref in states_refs:
                tile.store_state(ref.at[m], s)
            rows = _Rows(tile, m)
            chunk = _load(rows, k_ref, beta_ref, log_decay_ref, reset_ref)
            q, v = rows.load(q_ref, "TK"), rows.load(v_ref, "TnV")
            u = tile.dot(chunk.inverse, chunk.beta[:, None] * _error(chunk, tile, v, s))
            o = tile.dot(_pairs(chunk, tile, q), u) + chunk.seen[:, None] * tile.dot(q, s)
            rows.store(o_ref, o, "TV")
            return chunk.kept * s + tile.dot(chunk.left[:, None] * chunk.k, u, 0, 0)

        tile.store_state(s_last_ref, lax.fori_loop(0, tiling.M, step, tile.load_state(s0_ref)))

    inputs = _inputs(q, k, v, beta, log_decay, reset)
    outputs = [("TBHV", v.dtype), ("BHKV", s0.dtype), ("MBHKV", s0.dtype)]
    return tuple(_call(kernel, tiling, [*inputs, (s0, "BHKV")], outputs[: 2 + keep_states], interpret))


def backward(
    q: Array,
    k: Array,
    v: Array,
    beta: Array,
    log_decay: Array,
    reset: Array,
    states: Array,
    g: Array,
    g_last: Array,
    *,
    chunk_size: int,
    interpret: bool = False,
) -> tuple[Array, ...]:
    """Gradients of q, k, v, beta, log_decay (each in its dtype) and s0, where g and g_last are those of o and s_last.

    With w = (I + L)^-T du, the gradient of beta e, the system gives dL = -w u^T below its diagonal. The exponential of
    pair i, j holds the log decays of rows j+1 to i, so that each row's gets what the pairs round it get, all of them of
    its own segment.
    """
    tiling = _Tiling(q, v, chunk_size)

    def kernel(*refs):
        q_ref, k_ref, v_ref, beta_ref, log_decay_ref, reset_ref, states_ref, g_ref, g_last_ref = refs[:9]
        dq_ref, dk_ref, dv_ref, dbeta_ref, dlog_decay_ref, ds0_ref = refs[9:]
        tile = _Tile(tiling, interpret)
        dot = tile.dot

        def step(i, ds):
            m = tiling.M - 1 - i
            rows = _Rows(tile, m)
            chunk = _load(rows, k_ref, beta_ref, log_decay_ref, reset_ref)
            q, v, g = rows.load(q_ref, "TK"), rows.load(v_ref, "TnV"), rows.load(g_ref, "TV")
            s = tile.load_state(states_ref.at[m])
            k, decay = chunk.k, chunk.decay
            beta, seen, left = chunk.beta[:, None], chunk.seen[:, None], chunk.left[:, None]
            error = _error(chunk, tile, v, s)
            u = dot(chunk.inverse, beta * error)
            pairs = _pairs(chunk, tile, q)

            # Through o = pairs u + seen (q s) and s_after = kept s + (left k)^T u,
            du = dot(pairs, g, 0, 0) + dot(left * k, ds)
            dpairs = dot(g, u, 1, 1)
            dq_seen = seen * dot(g, s, 1, 1)
            dk_left = left * dot(u, ds, 1, 1)
            # then through u = (I + system)^-1 beta error.
            w = dot(chunk.inverse, du, 0, 0)
            dsystem = jnp.where(tile.below, -dot(w, u, 1, 1), 0)
            dv = beta * w
            dk_seen = -seen * dot(dv, s, 1, 1)
            rows.store(dv_ref, dv, "TnV")
            rows.store(dbeta_ref, jnp.sum(w * error, 1) + jnp.sum(dsystem * chunk.kk * decay, 1), "Tn")

            dqk = dpairs * decay
            rows.store(dq_ref, dot(dqk, k) + dq_seen, "TK")
            dkk = beta * dsystem * decay
            rows.store(dk_ref, dot(dkk + dkk.T, k) + dot(dqk, q, 0, 0) + dk_seen + dk_left, "TnK")

            between = dpairs * pairs + dsystem * chunk.system
            since_start = jnp.sum(q * dq_seen + k * dk_seen, 1)
            until_end = jnp.sum(k * dk_left, 1)
            ends = jnp.sum(between, 1) + since_start - until_end
            later = jnp.where(chunk.together, (ends - jnp.sum(between, 0))[:, None], 0)
            whole = jnp.where(chunk.last, jnp.sum(until_end), 0) + chunk.kept * jnp.sum(s * ds)
            rows.store(dlog_decay_ref, jnp.sum(later, 0) + whole, "T")
            return chunk.kept * ds + dot(seen * q, g, 0, 0) - dot(seen * k, dv, 0, 0)

        tile.store_state(ds0_ref, lax.fori_loop(0, tiling.M, step, tile.load_state(g_last_ref)))

    inputs = [*_inputs(q, k, v, beta, log_decay, reset), (states, "MBHKV"), (g, "TBHV"), (g_last, "BHKV")]

    def part(x):
        """The dtype of what a tile contributes to x's gradient."""
        return x.dtype if tiling.J == 1 else jnp.float32

    outputs = [
        ("JTBHK", part(q)),
        ("JTBHnK", part(k)),
        ("TBHnV", v.dtype),
        ("JTBHn", part(beta)),
        ("JTBH", part(log_decay)),
        ("BHKV", g_last.dtype),
    ]
    dq, dk, dv, dbeta, dlog_decay, ds0 = _call(kernel, tiling, inputs, outputs, interpret)

    def summed(parts, x):
        return parts[0] if tiling.J == 1 else parts.sum(0).astype(x.dtype)

    return summed(dq, q), summed(dk, k), dv, summed(dbeta, beta), summed(dlog_decay, log_decay), ds0


class _Chunk(NamedTuple):
    """What both passes need of a chunk of C rows before its state and values are known; float32."""

    k: Array  # [C, K]
    beta: Array  # [C]
    kk: Array  # [C, C], products of keys
    together: Array  # [C, C] bool, whether row j comes before row i, or is it, in one segment
    last: Array  # [C] bool, whether no reset follows
    decay: Array  # [C, C], D, and 0 above the diagonal
    system: Array  # [C, C], L
    inverse: Array  # [C, C], of I + L
    seen: Array  # [C]
    left: Array  # [C], decay of what the row wrote up to the chunk's end, 0 before a reset
    kept: Array  # [], decay of the state over the whole chunk, 0 with a reset


def _load(rows: "_Rows", k_ref: Any, beta_ref: Any, log_decay_ref: Any, reset_ref: Any) -> _Chunk:
    tile = rows.tile
    k, beta = rows.load(k_ref, "TnK"), rows.load(beta_ref, "Tn")
    log_decay, reset = rows.load(log_decay_ref, "T"), rows.load(reset_ref, "T")
    segment, cumulative = jnp.cumsum(reset), jnp.cumsum(log_decay)
    # The last of the sums and not a sum of its own, so that the last row's exponent is 0 to the last digit.
    resets, total = (jnp.sum(jnp.where(tile.row == tile.C - 1, x, 0)) for x in (segment, cumulative))
    together = ~tile.above & (segment[:, None] == segment[None, :])
    decay = _exp_where(together, cumulative[:, None] - cumulative[None, :])
    kk = tile.dot(k, k, 1, 1)
    system = jnp.where(tile.below, beta[:, None] * kk * decay, 0)
    return _Chunk(
        k=k,
        beta=beta,
        kk=kk,
        together=together,
        last=segment == resets,
        decay=decay,
        system=system,
        inverse=_inverse_of_unit_lower(system, tile),
        seen=_exp_where(segment == 0, cumulative),
        left=_exp_where(segment == resets, total - cumulative),
        kept=_exp_where(resets == 0, total),
    )


def _exp_where(mask: Array, x: Array) -> Array:
    return jnp.where(mask, jnp.exp(jnp.where(mask, x, 0)), 0)


def _pairs(chunk: _Chunk, tile: "_Tile", q: Array) -> Array:
    """A: how much each row's query reads of what each row wrote, [C, C]."""
    return tile.dot(q, chunk.k, 1, 1) * chunk.decay


def _error(chunk: _Chunk, tile: "_Tile", v: Array, s: Array) -> Array:
    """e: the values less what the state before the chunk predicts, [C, V]."""
    return v - chunk.seen[:, None] * tile.dot(chunk.k, s)


def _inverse_of_unit_lower(system: Array, tile: "_Tile") -> Array:
    """(I + system)^-1 for a strictly lower triangular matrix, by [[A, 0], [L, D]]^-1 = [[A', 0], [-D' L A', D']].

    All pairs of blocks on the diagonal do so at once, from blocks of one row on. It is as exact as substitution, where
    each row would wait for the one above it.
    """
    apart = tile.row[:, None] ^ tile.row[None, :]
    inverse = jnp.where(apart == 0, 1.0, 0.0) - jnp.where(apart == 1, system, 0)
    size = 2
    while size < tile.C:
        between_halves = jnp.where(lax.div(apart, size) == 1, system, 0)
        inverse -= tile.dot(inverse, tile.dot(between_halves, inverse))
        size *= 2
    return inverse


class _Tiling:
    """How the arrays are cut into programs, and their rows into chunks."""

    def __init__(self, q: Array, v: Array, chunk_size: int):
        self.T, self.B, self.H, self.K = q.shape
        self.n, self.V = v.shape[3:]
        self.rows = min(chunk_size * self.n, MAX_ROWS, self.T * self.n)  # of a chunk
        self.M = pl.cdiv(self.T * self.n, self.rows)
        self.C, self.K_padded = _padded(self.rows), _padded(self.K)
        self.columns = min(_padded(self.V), max(SMALLEST, STATE // self.K_padded))  # of a tile
        self.J = pl.cdiv(self.V, self.columns)
        self.num_warps = min(16, max(1, self.K_padded * self.columns // STATE_OF_WARP))
        self.grid = (self.B * self.H * self.J,)  # tiles of one head side by side, since they read the same

    def shape(self, axes: str) -> tuple[int, ...]:
        """Of an array, by the letters of its axes; J is the axis of tiles."""
        return tuple(getattr(self, axis) for axis in axes)

    def spec(self, axes: str) -> pl.BlockSpec:
        """How an array is dealt out to the programs."""
        block = {"M": self.M, "T": self.T, "n": self.n, "K": self.K_padded, "V": self.columns}

        def index(i):
            head, j = lax.div(i, self.J), lax.rem(i, self.J)
            at = {"B": lax.div(head, self.H), "H": lax.rem(head, self.H), "J": j, "V": j}
            return tuple(at.get(axis, 0) for axis in axes)

        return pl.BlockSpec(tuple(block.get(axis) for axis in axes), index)


class _Tile:
    """What is the same for all chunks of the program that runs."""

    def __init__(self, tiling: _Tiling, interpret: bool):
        self.tiling, self.C = tiling, tiling.C
        self.precision = lax.Precision.HIGHEST if interpret else PRECISION
        self.row = jnp.arange(self.C)
        self.above, self.below = self.row[:, None] < self.row[None, :], self.row[:, None] > self.row[None, :]
        self.K, self.V = jnp.arange(tiling.K_padded), jnp.arange(tiling.columns)
        j = lax.rem(pl.program_id(0), tiling.J)
        self.in_K, self.in_V = self.K < tiling.K, j * tiling.columns + self.V < tiling.V
        self.in_state = self.in_K[:, None] & self.in_V[None, :]

    def load_state(self, ref: Any) -> Array:
        """[K, V]; zeros where it hangs over an edge."""
        return triton.load(ref, mask=self.in_state, other=0)

    def store_state(self, ref: Any, s: Array) -> None:
        triton.store(ref, s, mask=self.in_state)

    def dot(self, a: Array, b: Array, a_axis: int = 1, b_axis: int = 0) -> Array:
        """The sum over an axis of each, as precise as in float32."""
        return lax.dot_general(a, b, (((a_axis,), (b_axis,)), ((), ())), precision=self.precision)


class _Rows:
    """The rows of chunk m; a last one that is not full ends in rows of zeros, which change nothing."""

    def __init__(self, tile: _Tile, m: Any):
        tiling = tile.tiling
        self.tile = tile
        row = m * tiling.rows + tile.row
        self.token, self.step = lax.div(row, tiling.n), lax.rem(row, tiling.n)
        self.inside = (tile.row < tiling.rows) & (row < tiling.T * tiling.n)
        self.first, self.last = self.inside & (self.step == 0), self.inside & (self.step == tiling.n - 1)

    def load(self, ref: Any, axes: str) -> Array:
        """[C], [C, K] or [C, V] in float32, of an array with the axes T or Tn, TK or TnK, TV or TnV.

        Arrays of tokens are found at each token's last step, or if they have no other axis at its first, and are zero
        at its other steps.
        """
        ref, mask = self._at(ref, axes)
        return triton.load(ref, mask=mask, other=0).astype(jnp.float32)

    def store(self, ref: Any, x: Array, axes: str) -> None:
        ref, mask = self._at(ref, axes)
        triton.store(ref, x.astype(ref.dtype), mask=mask)

    def _at(self, ref: Any, axes: str) -> tuple[Any, Array]:
        mask = self.inside if "n" in axes else self.first if axes == "T" else self.last
        # The interpreter writes back what a mask keeps, which must not be another step of a token that is written.
        T = self.tile.tiling.T
        index = (self.token, self.step) if "n" in axes else (jnp.where(mask, self.token, T),)
        if axes[-1] in "KV":
            columns, inside = (self.tile.K, self.tile.in_K) if axes[-1] == "K" else (self.tile.V, self.tile.in_V)
            index = (*(x[:, None] for x in index), columns[None, :])
            mask = mask[:, None] & inside[None, :]
        return ref.at[index], mask


def _padded(size: int) -> int:
    return max(SMALLEST, pl.next_power_of_2(size))


def _inputs(q, k, v, beta, log_decay, reset) -> list[tuple[Array, str]]:
    return [
        (q, "TBHK"),
        (k, "TBHnK"),
        (v, "TBHnV"),
        (beta, "TBHn"),
        (log_decay, "TBH"),
        (reset.astype(jnp.int8), "TB"),
    ]


def _call(
    kernel: Callable, tiling: _Tiling, inputs: Sequence[tuple], outputs: Sequence[tuple], interpret: bool
) -> Sequence[Array]:
    """The results of `kernel`, of arrays and their axes; outputs are axes and dtypes."""
    return pl.pallas_call(
        kernel,
        out_shape=[jax.ShapeDtypeStruct(tiling.shape(axes), dtype) for axes, dtype in outputs],
        grid=tiling.grid,
        in_specs=[tiling.spec(axes) for _, axes in inputs],
        out_specs=[tiling.spec(axes) for axes, _ in outputs],
        compiler_params=triton.CompilerParams(num_warps=tiling.num_warps, num_stages=NUM_STAGES),
        interpret=interpret,
    )(*(x for x, _ in inputs))
