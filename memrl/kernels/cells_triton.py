"""Recurrent cells on NVIDIA GPUs: one Pallas kernel, for its Triton back end, for all steps (Poeppel et al. 2024, FlashRNN).

A program owns some rows of the batch and walks through time with their state in registers. The recurrent matrix U is
loaded once, before the first step, and stays on chip: a step reads its gates and writes its state, nothing else. What
the next step reads is asked for one step ahead.

The gradient's kernel walks back in the same way with the transpose of U, and leaves U's own gradient to one product
afterwards. It reads the activations that the forward kernel saved. Per element of the state and float32 that moves, of
a GRU, 8 numbers forward and 12 backward; to compute them again would take 4 and 11, but also h U once more, thus U twice
on chip, its transpose and itself, which halves the largest N.
"""

from collections.abc import Callable
from functools import partial
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
NUM_WARPS = {16: 4, 32: 4, 64: 4, 128: 8}  # by the width of the state


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

    def run(kernel_ref: Any, refs: Any) -> None:
        tile = _Tile(tiling)
        U = [tile.load_matrix(kernel_ref, k) for k in range(G)]

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

        last = _walk(T, load, step, tuple(tile.load(ref) for ref in refs["states"]))
        for ref, x in zip(refs["last"], last, strict=True):
            tile.store(ref, x)

    each, final = jax.ShapeDtypeStruct((T, B, N), jnp.float32), jax.ShapeDtypeStruct((B, N), jnp.float32)
    results = _call(
        run,
        tiling,
        kernel,
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
    """Gradients of h U, [T, B, G N] float32; of the gates, in `dtype`, where they are others; of the starting states."""
    (T, B, N), G, S = g.shape, cell.num_gates, cell.num_states
    tiling = _Tiling(T, B, N)
    same = cell.one_sum and dtype == jnp.float32

    def run(kernel_ref: Any, refs: Any) -> None:
        tile = _Tile(tiling)
        U_transposed = [tile.load_matrix(kernel_ref, k).T for k in range(G)]

        def load(i):
            t = T - 1 - i
            saved_t = [tile.load(ref, t) for ref in refs["saved"]]
            before = [tile.load_before(ref, first, t) for ref, first in zip(refs["after"], refs["states"], strict=True)]
            return tile.load(refs["g"], t), saved_t, tuple(before), tile.load_reset(refs["reset"], t)

        def step(i, carry, loaded):
            (dh, *dstates), states_t = carry
            g_t, saved_t, before, cut = loaded
            dstates, dgates, drecurrent = cell.backward((g_t + dh, *dstates), _keep(cut, before), states_t, saved_t)
            dh = sum((_dot(d, u, interpret) for d, u in zip(drecurrent, U_transposed, strict=True)), dstates[0])
            for k in range(G):
                tile.store(refs["drecurrent"], drecurrent[k], T - 1 - i, k)
                if not same:
                    tile.store(refs["dgates"][0], dgates[k], T - 1 - i, k)
            return _keep(cut, (dh, *dstates[1:])), before

        carry = tuple(tile.load(ref) for ref in refs["g_last"]), tuple(tile.load(ref, T - 1) for ref in refs["after"])
        dstates, _ = _walk(T, load, step, carry)
        for ref, x in zip(refs["dstates"], dstates, strict=True):
            tile.store(ref, x)

    like = jax.ShapeDtypeStruct
    results = _call(
        run,
        tiling,
        kernel,
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


def _walk(T: int, load: Callable, step: Callable, carry: Any) -> Any:
    """`carry = step(i, carry, load(i))` for i from 0 to T - 1; a step's loads are issued before the step before it.

    Two steps to a turn of the loop, so that what was loaded need not move between registers, which would wait for it.
    """

    def two_steps(n, carry):
        carry, loaded = carry
        i = 2 * n
        following = load(i + 1)
        carry = step(i, carry, loaded)
        loaded = load(i + 2)
        return step(i + 1, carry, following), loaded

    turns = (T - 1) // 2
    carry, loaded = lax.fori_loop(0, turns, two_steps, (carry, load(0)))
    rest = range(2 * turns, T)
    following = [load(i) for i in rest[1:]]
    for i, values in zip(rest, [loaded, *following], strict=True):
        carry = step(i, carry, values)
    return carry


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
        """U of a gate, [N, N]."""
        return triton.load(ref.at[:, jnp.int32(gate), :], mask=self.columns[:, None] & self.columns[None, :], other=0)

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


def _call(run: Callable, tiling: _Tiling, kernel: Array, inputs: Any, outputs: Any, interpret: bool) -> Any:
    """`outputs` as `run(ref of U, refs)` fills them, given the refs of all of `inputs` and `outputs` by name."""
    N = tiling.N
    kernel = kernel.reshape(N, -1, N)
    operands, tree = jax.tree.flatten(inputs)
    shapes, out_tree = jax.tree.flatten(outputs)

    def body(kernel_ref, *refs):
        run(kernel_ref, tree.unflatten(refs[: len(operands)]) | out_tree.unflatten(refs[len(operands) :]))

    whole = pl.BlockSpec((tiling.columns, kernel.shape[1], tiling.columns), lambda i: (0, 0, 0))
    results = pl.pallas_call(
        body,
        out_shape=shapes,
        grid=tiling.grid,
        in_specs=[whole, *(tiling.spec(x) for x in operands)],
        out_specs=[tiling.spec(x) for x in shapes],
        compiler_params=triton.CompilerParams(num_warps=NUM_WARPS[tiling.columns]),
        interpret=interpret,
    )(kernel, *operands)
    return out_tree.unflatten(results)
