"""The linear recurrence on NVIDIA GPUs: Pallas kernels for its Triton back end.

The scan moves memory and little else: three arrays forward (a, b, h) and five backward (g, a, h, da, db), each number
once. A program owns a tile of lanes and walks through time with the carry in registers; rows of UNROLL steps are loaded
before the first of them is used, so that loads overlap. Complex numbers are two planes. Resets are selections.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from memrl.kernels.linear_scan_step import adjoint_step, scan_step
from memrl.kernels.planes import Planes, add
from memrl.types import Array

# Not tuned on a card yet.
LANES = 128  # of a tile: rows of the batch times state channels, both powers of two
UNROLL = 8  # steps
NUM_WARPS = 4


def forward(
    a: Planes, b: Planes, h0: Planes, reset: Array | None, *, reverse: bool, interpret: bool = False
) -> tuple[Planes, Planes]:
    """h [T, B, N] in b's dtype and the last state [B, N] in h0's.

    Args:
        a: planes [T, B, N], or [1, 1, N] when constant.
        b: planes [T, B, N], T at least 1.
        h0: planes [B, N].
        reset: [T, B] bool or None.
        reverse: from the last step to the first.
        interpret: run by JAX's interpreter, on any platform.
    """
    T, B, N = b[0].shape
    constant = a[0].shape[:2] != (T, B)
    tiling = _Tiling(T, B, N)
    count = len(b)

    def kernel(*refs):
        a_refs, b_refs, h0_refs, reset_ref, (h_refs, last_refs) = _split(refs, count, reset is not None, outputs=2)
        tile, at = _Tile(tiling), partial(_step_index, T=T, reverse=reverse)
        fixed = tile.load_constant(a_refs) if constant else None

        def load(i):
            t = at(i)
            a_t = fixed if fixed is not None else tile.load(a_refs, t)
            return t, a_t, tile.load(b_refs, t), tile.load_reset(reset_ref, t)

        def step(h, loaded):
            t, a_t, b_t, cut = loaded
            h = scan_step(h, a_t, b_t, cut)
            tile.store(h_refs, h, t)
            return h

        tile.store(last_refs, _walk(range(T), load, step, tile.load(h0_refs)))

    like = jax.ShapeDtypeStruct
    outputs = [like(x.shape, x.dtype) for x in (*b, *h0)]
    results = _call(kernel, tiling, [*a, *b, *h0], reset, outputs, interpret)
    return tuple(results[:count]), tuple(results[count:])


def backward(
    a: Planes,
    h: Planes,
    h0: Planes,
    reset: Array | None,
    g: Planes,
    g_last: Planes,
    *,
    reverse: bool,
    interpret: bool = False,
) -> tuple[Planes, Planes, Planes]:
    """Gradients of a ([T, B, N], or summed over time [B, N] when constant), of b and of h0, in one pass.

    lambda_t = g_t + a_{t+1} lambda_{t+1},   db_t = lambda_t,   da_t = lambda_t h_{t-1},   dh0 = a_0 lambda_0.
    """
    T, B, N = g[0].shape
    constant = a[0].shape[:2] != (T, B)
    tiling = _Tiling(T, B, N)
    count = len(g)

    def kernel(*refs):
        a_refs, h_refs, h0_refs, g_refs, g_last_refs, reset_ref, (da_refs, db_refs, dh0_refs) = _split(
            refs, count, reset is not None, inputs=5, outputs=3
        )
        tile, at = _Tile(tiling), partial(_step_index, T=T, reverse=reverse)
        fixed = tile.load_constant(a_refs) if constant else None

        def load(i, first=False):
            t = at(i)
            a_t = fixed if fixed is not None else tile.load(a_refs, t)
            before = tile.load(h0_refs) if first else tile.load(h_refs, at(i - 1))
            return t, a_t, before, tile.load(g_refs, t), tile.load_reset(reset_ref, t)

        def step(carry, loaded):
            flow, total = carry
            t, a_t, before, g_t, cut = loaded
            flow, da, adjoint = adjoint_step(flow, a_t, before, g_t, cut)
            tile.store(db_refs, adjoint, t)
            if constant:
                total = add(total, da)
            else:
                tile.store(da_refs, da, t)
            return flow, total

        nothing = tuple(jnp.zeros(tile.shape, jnp.float32) for _ in range(count))
        carry = tile.load(g_last_refs), nothing
        carry = _walk(range(T - 1, 0, -1), load, step, carry)
        flow, total = step(carry, load(0, first=True))
        tile.store(dh0_refs, flow)
        if constant:
            tile.store(da_refs, total)

    like = jax.ShapeDtypeStruct
    da = [like((B, N), jnp.float32) if constant else like((T, B, N), x.dtype) for x in a]
    outputs = [*da, *(like(x.shape, x.dtype) for x in (*g, *h0))]
    results = _call(kernel, tiling, [*a, *h, *h0, *g, *g_last], reset, outputs, interpret)
    return tuple(results[:count]), tuple(results[count : 2 * count]), tuple(results[2 * count :])


def _walk(steps: range, load: Callable, step: Callable, carry: Any) -> Any:
    """`carry = step(carry, load(i))` for i in `steps`, in groups whose loads come first."""
    groups, rest = divmod(len(steps), UNROLL)

    def group(n, carry):
        first = steps.start + n * UNROLL * steps.step
        loaded = [load(first + k * steps.step) for k in range(UNROLL)]
        for values in loaded:
            carry = step(carry, values)
        return carry

    if groups:
        carry = lax.fori_loop(0, groups, group, carry)
    loaded = [load(i) for i in steps[len(steps) - rest :]]
    for values in loaded:
        carry = step(carry, values)
    return carry


def _step_index(i: Any, T: int, reverse: bool) -> Array:
    """Where in the arrays step i of the scan is."""
    return jnp.asarray(T - 1 - i if reverse else i, jnp.int32)


class _Tiling:
    """The lanes dealt out to programs: `rows` of the batch times `columns` of the state to each."""

    def __init__(self, T: int, B: int, N: int):
        self.T, self.B, self.N = T, B, N
        self.columns = min(LANES, pl.next_power_of_2(N))
        self.rows = min(LANES // self.columns, pl.next_power_of_2(B))
        self.shape = (self.rows, self.columns)
        self.grid = (pl.cdiv(B, self.rows), pl.cdiv(N, self.columns))

    def spec(self, x: Array | jax.ShapeDtypeStruct) -> pl.BlockSpec:
        """How `x`, [T, B, N], [1, 1, N], [B, N] or a reset [T, B], is dealt out to the programs."""
        if x.ndim == 2:
            if x.dtype == jnp.int8:
                return pl.BlockSpec((self.T, self.rows), lambda i, j: (0, i))
            return pl.BlockSpec(self.shape, lambda i, j: (i, j))
        if x.shape[:2] == (self.T, self.B):
            return pl.BlockSpec((self.T, *self.shape), lambda i, j: (0, i, j))
        return pl.BlockSpec((1, 1, self.columns), lambda i, j: (0, 0, j))


class _Tile:
    """The lanes of the program that runs; the last tiles hang over the edge, where nothing is read or written."""

    def __init__(self, tiling: _Tiling):
        rows = pl.program_id(0) * tiling.rows + jnp.arange(tiling.rows)
        columns = pl.program_id(1) * tiling.columns + jnp.arange(tiling.columns)
        self.shape = tiling.shape
        self.rows, self.columns = rows < tiling.B, columns < tiling.N
        self.lanes = self.rows[:, None] & self.columns[None, :]

    def load(self, refs: Sequence[Any], t: Any = None) -> Planes:
        """Planes of step t, or of a state."""
        refs = refs if t is None else [ref.at[t] for ref in refs]
        return tuple(_float32(triton.load(ref, mask=self.lanes, other=0)) for ref in refs)

    def load_constant(self, refs: Sequence[Any]) -> Planes:
        """Planes [1, 1, N] that all steps and rows share."""
        zero = jnp.int32(0)
        loaded = (_float32(triton.load(ref.at[zero, zero], mask=self.columns, other=0)) for ref in refs)
        return tuple(jnp.broadcast_to(x[None, :], self.shape) for x in loaded)

    def load_reset(self, ref: Any, t: Any) -> Array | None:
        """Which lanes are cut before step t."""
        if ref is None:
            return None
        cut = triton.load(ref.at[t], mask=self.rows, other=0) != 0
        return jnp.broadcast_to(cut[:, None], self.shape)

    def store(self, refs: Sequence[Any], planes: Planes, t: Any = None) -> None:
        """Writes planes of step t, or of a state."""
        refs = refs if t is None else [ref.at[t] for ref in refs]
        for ref, x in zip(refs, planes, strict=True):
            triton.store(ref, x.astype(ref.dtype), mask=self.lanes)


def _float32(x: Array) -> Array:
    return x.astype(jnp.float32)


def _split(refs: Sequence[Any], count: int, has_reset: bool, *, outputs: int, inputs: int = 3) -> tuple:
    """Refs in groups of `count` planes: the inputs, the reset's or None, and a list of the outputs."""
    groups = [refs[k * count : (k + 1) * count] for k in range(inputs)]
    refs = refs[inputs * count :]
    reset_ref, refs = (refs[0], refs[1:]) if has_reset else (None, refs)
    return *groups, reset_ref, [refs[k * count : (k + 1) * count] for k in range(outputs)]


def _call(
    kernel: Callable, tiling: _Tiling, inputs: list, reset: Array | None, outputs: list, interpret: bool
) -> Sequence:
    operands = inputs if reset is None else [*inputs, reset.astype(jnp.int8)]
    return pl.pallas_call(
        kernel,
        out_shape=outputs,
        grid=tiling.grid,
        in_specs=[tiling.spec(x) for x in operands],
        out_specs=[tiling.spec(x) for x in outputs],
        compiler_params=triton.CompilerParams(num_warps=NUM_WARPS),
        interpret=interpret,
    )(*operands)
