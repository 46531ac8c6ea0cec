"""Recurrent cells on NVIDIA GPUs: one Pallas (Triton) kernel for all steps (Poeppel et al. 2024, "FlashRNN").

A program owns some rows of the batch and walks through time with their state in registers. The recurrent matrix U is
loaded once, before the first step, and stays in shared memory: a step reads its gates and writes its state, nothing
else, and what the next step reads is asked for before it. A wider U would have to come from the second-level cache at
every step, and h go through global memory, since a program cannot hold a row in parts: that is left to XLA.

The gradient's kernel walks back in the same way with the transpose of U, and leaves U's own gradient to one product
afterwards. It reads the activations that the forward kernel saved. Of a GRU that is 8 numbers to and from memory
forward and 12 backward, for each element of h. To compute them again would be 4 and 11, but takes h U once more and
thus U twice on chip, as it is and transposed, which halves the widest N.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from memrl.kernels.cells import Arrays, Cell
from memrl.types import Array

# Not tuned on a card yet.
ROWS = 16  # of the batch to a program; the fewest that tensor cores take
COLUMNS_PER_WARP = 8  # of a product; the fewest that tensor cores make. Compiled for an H100, none of it spills.


def forward(
    cell: Cell,
    gates: Array,
    kernel: Array,
    reset: Array | None,
    states: Arrays,
    *,
    save: bool,
    interpret: bool = False,
) -> tuple[tuple[Array, ...], tuple[Array, ...], tuple[Array, ...]]:
    """States after each step, [T, B, N], h alone unless `save`; the last ones, [B, N]; what the gradient needs besides.

    Args:
        cell: the equations.
        gates: [T, B, G N], T at least 1.
        kernel: U, [N, G N].
        reset: [T, B] bool or None.
        states: before the first step, [B, N] float32.
        save: keep all states and what the gradient needs.
        interpret: run by JAX's interpreter, on any platform.
    """
    (T, B, _), N, G, S = gates.shape, kernel.shape[0], cell.num_gates, cell.num_states
    tiling = _Tiling(T, B, N)

    def run(matrices: Any, refs: Any) -> None:
        tile = _Tile(tiling)
        U = [tile.load_matrix(matrices, k) for k in range(G)]

        def load(t):
            return [tile.load(refs["gates"], t, k) for k in range(G)], tile.load_reset(refs["reset"], t)

        def step(t, states, loaded):
            gates_t, cut = loaded
            states = _keep(cut, states)
            recurrent = [_dot(states[0], u, interpret) for u in U]
            states, saved = cell.forward(gates_t, recurrent, states)
            for ref, x in zip(refs["after"], states, strict=False):
                tile.store(ref, x, t)
            for ref, x in zip(refs["saved"], saved, strict=False):
                tile.store(ref, x, t)
            return tuple(states)

        first = tuple(tile.load(ref) for ref in refs["states"])
        last = _walk(range(T), load, step, first)
        for ref, x in zip(refs["last"], last, strict=True):
            tile.store(ref, x)

    each, final = jax.ShapeDtypeStruct((T, B, N), jnp.float32), jax.ShapeDtypeStruct((B, N), jnp.float32)
    results = _call(
        run,
        tiling,
        jnp.moveaxis(kernel.reshape(N, G, N), 1, 0),
        {"gates": gates.reshape(T, B, G, N), "states": states, "reset": _numbers(reset)},
        {"after": [each] * (S if save else 1), "last": [final] * S, "saved": [each] * (cell.num_saved * save)},
        interpret,
    )
    return tuple(results["after"]), tuple(results["last"]), tuple(results["saved"])


def backward(
    cell: Cell,
    dtype: Any,
    kernel: Array,
    reset: Array | None,
    states: Arrays,
    after: Arrays,
    saved: Arrays,
    g: Array,
    g_last: Arrays,
    *,
    interpret: bool = False,
) -> tuple[Array, Array | None, tuple[Array, ...]]:
    """Gradients of h U, [T, B, G N] float32, of the gates in `dtype`, where they are others, of the first states."""
    (T, B, N), G, S = g.shape, cell.num_gates, cell.num_states
    tiling = _Tiling(T, B, N)
    same = cell.one_sum and dtype == jnp.float32

    def run(matrices: Any, refs: Any) -> None:
        tile = _Tile(tiling)
        U_transposed = [tile.load_matrix(matrices, k) for k in range(G)]

        def load(t):
            saved_t = [tile.load(ref, t) for ref in refs["saved"]]
            before = [tile.load_before(ref, first, t) for ref, first in zip(refs["after"], refs["states"], strict=True)]
            return tile.load(refs["g"], t), saved_t, tuple(before), tile.load_reset(refs["reset"], t)

        def step(t, carry, loaded):
            (dh, *dstates), states_t = carry
            g_t, saved_t, before, cut = loaded
            dstates, dgates, drecurrent = cell.backward((g_t + dh, *dstates), _keep(cut, before), states_t, saved_t)
            dh = sum((_dot(d, u, interpret) for d, u in zip(drecurrent, U_transposed, strict=True)), dstates[0])
            for k in range(G):
                tile.store(refs["drecurrent"], drecurrent[k], t, k)
                if not same:
                    tile.store(refs["dgates"][0], dgates[k], t, k)
            return _keep(cut, (dh, *dstates[1:])), before

        carry = tuple(tile.load(ref) for ref in refs["g_last"]), tuple(tile.load(ref, T - 1) for ref in refs["after"])
        dstates, _ = _walk(range(T - 1, -1, -1), load, step, carry)
        for ref, x in zip(refs["dstates"], dstates, strict=True):
            tile.store(ref, x)

    like = jax.ShapeDtypeStruct
    results = _call(
        run,
        tiling,
        kernel.T.reshape(G, N, N),
        {"states": states, "after": after, "saved": saved, "g": g, "g_last": g_last, "reset": _numbers(reset)},
        {
            "drecurrent": like((T, B, G, N), jnp.float32),
            "dgates": [] if same else [like((T, B, G, N), dtype)],
            "dstates": [like((B, N), jnp.float32)] * S,
        },
        interpret,
    )
    drecurrent, *dgates = (x.reshape(T, B, G * N) for x in (results["drecurrent"], *results["dgates"]))
    return drecurrent, dgates[0] if dgates else None, tuple(results["dstates"])


def _walk(steps: range, load: Callable, step: Callable, carry: Any) -> Any:
    """`carry = step(t, carry, load(t))` for each t in `steps`; what a step reads is asked for before the one before."""
    count, stride = len(steps), steps.step

    def one(i, carry):
        carry, loaded = carry
        following = load(steps.start + stride * jnp.minimum(i + 1, count - 1))
        return step(steps.start + stride * i, carry, loaded), following

    return lax.fori_loop(0, count, one, (carry, load(steps.start)))[0]


def _dot(x: Array, U: Array, interpret: bool) -> Array:
    """x U in U's type with float32 sums. Three products of TF32 parts make one of float32 on tensor cores."""
    exact = lax.Precision.HIGHEST if interpret else lax.DotAlgorithmPreset.TF32_TF32_F32_X3
    precision = exact if U.dtype == jnp.float32 else None
    return jnp.dot(x.astype(U.dtype), U, precision=precision, preferred_element_type=jnp.float32)


def _keep(cut: Array | None, states: Arrays) -> tuple[Array, ...]:
    return tuple(states) if cut is None else tuple(jnp.where(cut, 0.0, s) for s in states)


class _Tiling:
    """The rows of the batch dealt out to programs, and how wide a power of two holds the state."""

    def __init__(self, T: int, B: int, N: int):
        self.T, self.B, self.N = T, B, N
        self.rows, self.columns = ROWS, max(16, pl.next_power_of_2(N))
        self.grid = (pl.cdiv(B, self.rows),)

    def spec(self, x: Array | jax.ShapeDtypeStruct) -> pl.BlockSpec:
        """How `x`, [T, B, G, N], [T, B, N], [B, N] or a reset [T, B], is dealt out to the programs."""
        T, rows, columns = self.T, self.rows, self.columns
        if x.dtype == jnp.int8:
            return pl.BlockSpec((T, rows), lambda i: (0, i))
        if x.ndim == 2:
            return pl.BlockSpec((rows, columns), lambda i: (i, 0))
        if x.ndim == 4:
            return pl.BlockSpec((T, rows, x.shape[2], columns), lambda i: (0, i, 0, 0))
        return pl.BlockSpec((T, rows, columns), lambda i: (0, i, 0))


class _Tile:
    """The rows of the program that runs; nothing is read or written over the edge."""

    def __init__(self, tiling: _Tiling):
        rows = pl.program_id(0) * tiling.rows + jnp.arange(tiling.rows)
        columns = jnp.arange(tiling.columns)
        self.rows, self.columns = rows < tiling.B, columns < tiling.N
        self.shape = (tiling.rows, tiling.columns)
        self.inside = self.rows[:, None] & self.columns[None, :]

    def load(self, ref: Any, t: Any = None, gate: int | None = None) -> Array:
        """A state, or that of step t, or a gate of step t."""
        return triton.load(_at(ref, t, gate), mask=self.inside, other=0).astype(jnp.float32)

    def load_before(self, ref: Any, first: Any, t: Any) -> Array:
        """The state before step t, from those after each step and the one before the first."""
        earlier = self.inside & (t > 0)
        x = triton.load(_at(ref, jnp.maximum(t - 1, 0)), mask=earlier, other=0)
        return jnp.where(t > 0, x, triton.load(first, mask=self.inside & (t == 0), other=0))

    def load_reset(self, ref: Any, t: Any) -> Array | None:
        """What is cut before step t."""
        if ref is None:
            return None
        cut = triton.load(_at(ref, t), mask=self.rows, other=0) != 0
        return jnp.broadcast_to(cut[:, None], self.shape)

    def load_matrix(self, ref: Any, gate: int) -> Array:
        """That of a gate, [N, N]."""
        return triton.load(ref.at[jnp.int32(gate)], mask=self.columns[:, None] & self.columns[None, :], other=0)

    def store(self, ref: Any, x: Array, t: Any = None, gate: int | None = None) -> None:
        """Writes a state, or that of step t, or a gate of step t."""
        triton.store(_at(ref, t, gate), x.astype(ref.dtype), mask=self.inside)


def _at(ref: Any, t: Any, gate: int | None = None) -> Any:
    if t is None:
        return ref
    t = jnp.asarray(t, jnp.int32)
    return ref.at[t] if gate is None else ref.at[t, :, jnp.int32(gate), :]


def _numbers(reset: Array | None) -> Array | None:
    return None if reset is None else reset.astype(jnp.int8)


def _call(run: Callable, tiling: _Tiling, matrices: Array, inputs: Any, outputs: Any, interpret: bool) -> Any:
    """`outputs` as `run(ref of matrices, refs)` fills them, given the refs of all of `inputs` and `outputs` by name.

    Each program gets the `matrices` [G, N, N] whole, and its rows of everything else.
    """
    operands, tree = jax.tree.flatten(inputs)
    shapes, out_tree = jax.tree.flatten(outputs)

    def body(matrices_ref, *refs):
        run(matrices_ref, tree.unflatten(refs[: len(operands)]) | out_tree.unflatten(refs[len(operands) :]))

    whole = pl.BlockSpec((matrices.shape[0], tiling.columns, tiling.columns), lambda i: (0, 0, 0))
    results = pl.pallas_call(
        body,
        out_shape=shapes,
        grid=tiling.grid,
        in_specs=[whole, *(tiling.spec(x) for x in operands)],
        out_specs=[tiling.spec(x) for x in shapes],
        # One stage: the compiler adds no buffers to the loads that `_walk` orders.
        compiler_params=triton.CompilerParams(num_warps=tiling.columns // COLUMNS_PER_WARP, num_stages=1),
        interpret=interpret,
    )(matrices, *operands)
    return out_tree.unflatten(results)
