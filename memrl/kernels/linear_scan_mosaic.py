"""The linear recurrence on NVIDIA GPUs from Hopper on: Pallas kernels for its Mosaic GPU back end.

As in `linear_scan_triton` each number crosses the memory bus once. A program owns a tile of lanes (batch times state,
flattened) and walks through time in blocks of steps, the carry in registers. The card's copy engine brings the blocks
into rings of shared memory while earlier ones are worked on, and takes the results away; it leaves out what hangs over
the edges of an array. Complex numbers are two planes. Resets are selections, and travel as one bit per number.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from memrl.kernels.linear_scan_step import adjoint_step, scan_step
from memrl.kernels.planes import Planes, add
from memrl.types import Array

# Not tuned on a card yet.
ROW_BYTES = 512  # of a tile: a lane or two for each thread of a warpgroup
STEPS = 8  # of a block; at most 8, since a byte holds a block's resets
READS = 4  # blocks of each input that are on their way or in use
WRITES = 2  # blocks of each output

WARPGROUP = 128  # threads
ALIGNMENT = 16  # bytes, of rows in global memory, for the copy engine


def forward(
    a: Planes, b: Planes, h0: Planes, reset: Array | None, *, reverse: bool, interpret: Any = False
) -> tuple[Planes, Planes]:
    """h [T, B, N] in b's dtype and the last state [B, N] in h0's.

    Args:
        a: planes [T, B, N], or [1, 1, N] when constant.
        b: planes [T, B, N], T at least 1.
        h0: planes [B, N].
        reset: [T, B] bool or None.
        reverse: from the last step to the first.
        interpret: parameters of Pallas's interpreter for GPUs, which runs the kernel on any platform.
    """
    constant = a[0].shape[:2] != b[0].shape[:2]

    def start(fixed):
        return fixed[0]

    def step(h, now):
        a_t, b_t = [*now.fixed[1:], *now.rows]
        h = scan_step(h, a_t, b_t, now.cut)
        return h, [h]

    def finish(h):
        return [h]

    (h,), (last,) = _walk(
        (start, step, finish),
        fixed=[h0, _as_state(a, h0)] if constant else [h0],
        rows=[b] if constant else [a, b],
        results=[b],
        finals=1,
        reset=reset,
        descending=reverse,
        interpret=interpret,
    )
    return h, _typed(last, h0)


def backward(
    a: Planes,
    h: Planes,
    h0: Planes,
    reset: Array | None,
    g: Planes,
    g_last: Planes,
    *,
    reverse: bool,
    interpret: Any = False,
) -> tuple[Planes, Planes, Planes]:
    """Gradients of a ([T, B, N], or summed over time [B, N] when constant), of b and of h0, in one pass.

    lambda_t = g_t + a_{t+1} lambda_{t+1},   db_t = lambda_t,   da_t = lambda_t h_{t-1},   dh0 = a_0 lambda_0.
    """
    constant = a[0].shape[:2] != g[0].shape[:2]

    def start(fixed):
        g_last = fixed[1]
        return [g_last, tuple(_zeros(x.shape) for x in g_last)] if constant else [g_last]

    def step(carry, now):
        a_t, g_t = [*now.fixed[2:], *now.rows]
        flow, da, adjoint = adjoint_step(carry[0], a_t, now.before, g_t, now.cut)
        if constant:
            return [flow, add(carry[1], da)], [adjoint]
        return [flow], [adjoint, da]

    (db, *da), (dh0, *total) = _walk(
        (start, step, list),
        fixed=[h0, g_last, _as_state(a, h0)] if constant else [h0, g_last],
        rows=[g] if constant else [a, g],
        results=[g] if constant else [g, a],
        finals=2 if constant else 1,
        reset=reset,
        descending=not reverse,
        interpret=interpret,
        states=h,
    )
    return [*da, *total][0], db, _typed(dh0, h0)


def _as_state(a: Planes, h0: Planes) -> Planes:
    """A constant decay, [1, 1, N], for each lane."""
    return tuple(jnp.broadcast_to(p[0].astype(q.dtype), q.shape) for p, q in zip(a, h0, strict=True))


def _typed(x: Planes, like: Planes) -> Planes:
    return tuple(p.astype(q.dtype) for p, q in zip(x, like, strict=True))


class _Now(NamedTuple):
    """What a step gets beside its carry: planes of the tile's lanes, in float32."""

    fixed: list[Planes]
    rows: list[Planes]
    before: Planes | None  # the state before the step, on a walk back through states
    cut: Array | None  # which lanes are reset before the step


def _walk(
    functions: tuple[Callable, Callable, Callable],
    *,
    fixed: list[Planes],
    rows: list[Planes],
    results: list[Planes],
    finals: int,
    reset: Array | None,
    descending: bool,
    interpret: Any,
    states: Planes = (),
) -> tuple[list[Planes], list[Planes]]:
    """A loop over time, for each lane.

    Args:
        functions: `carry = start(fixed)`; `carry, results of t = step(carry, now)`, a `_Now`; `finals = finish(carry)`.
        fixed: planes [B, N] that stay in registers. The first are h0.
        rows: planes [T, B, N], of which each step gets its rows.
        results: planes with the shapes and dtypes of the results.
        finals: the number of planes [B, N], in float32, that `finish` makes, counting complex ones once.
        reset: [T, B] bool or None.
        descending: from the last row to the first.
        interpret: as in `forward`.
        states: h [T, B, N], on a walk back: the state before step t is the row ahead in the walk, and h0 at its end.
    """
    T, B, N = rows[0][0].shape
    tiling = _Tiling(T, B, N, rows[0][0].dtype, descending)
    inputs = {
        "fixed": [[tiling.flat(x.astype(jnp.float32)) for x in planes] for planes in fixed],
        "rows": [[tiling.flat(x) for x in planes] for planes in rows],
        "states": [tiling.flat(x) for x in states],
        "resets": [] if reset is None else [tiling.packed(reset)],
    }
    like = jax.ShapeDtypeStruct
    outputs = {
        "results": [[like((T, tiling.width), x.dtype) for x in planes] for planes in results],
        "finals": [[like((tiling.width,), jnp.float32) for _ in fixed[0]] for _ in range(finals)],
    }
    operands, inputs_tree = jax.tree.flatten(inputs)
    made, outputs_tree = jax.tree.flatten(outputs)

    def kernel(*refs, **memory):
        sources = jax.tree.unflatten(inputs_tree, refs[: len(operands)])
        targets = jax.tree.unflatten(outputs_tree, refs[len(operands) :])
        _Program(tiling, sources, targets, memory).run(*functions)

    made = plgpu.kernel(
        kernel,
        out_type=made,
        scratch_types=_memory(tiling, inputs, outputs),
        grid=(tiling.tiles,),
        grid_names=("tile",),
        # Safe without barriers round every load and store: threads do not read what other threads write, and
        # `commit_smem` parts their reads from the copies that follow. Lowering by lanes is the faster of two ways.
        compiler_params=plgpu.CompilerParams(
            unsafe_no_auto_barriers=True, lowering_semantics=plgpu.LoweringSemantics.Lane
        ),
        interpret=interpret,
    )(*operands)
    outputs = jax.tree.map(tiling.unflat, jax.tree.unflatten(outputs_tree, made))
    return [tuple(p) for p in outputs["results"]], [tuple(p) for p in outputs["finals"]]


class _Tiling:
    """The lanes dealt out to programs, and the steps to blocks. The last of either may hang over the edge."""

    def __init__(self, T: int, B: int, N: int, dtype: Any, descending: bool):
        self.T, self.B, self.N = T, B, N
        self.descending = descending
        aligned = ALIGNMENT // dtype.itemsize
        self.width = pl.cdiv(B * N, aligned) * aligned
        self.lanes = max(WARPGROUP, ROW_BYTES // dtype.itemsize)
        self.tiles = pl.cdiv(self.width, self.lanes)
        self.steps = min(STEPS, T)
        self.blocks = pl.cdiv(T, self.steps)
        # Of a walk back: where the state before a step is, and the step whose state before is h0.
        self.ahead = -1 if descending else 1
        self.first_step = 0 if descending else T - 1

    def always(self, u: int) -> bool:
        """Whether step u of every block is one of the T steps."""
        return u < (self.T % self.steps or self.steps)

    def flat(self, x: Array) -> Array:
        """[..., B, N] as [..., width]."""
        x = x.reshape(*x.shape[:-2], -1)
        return self._padded(x, self.width)

    def unflat(self, x: Array) -> Array:
        """What `flat` made, as it was."""
        return x[..., : self.B * self.N].reshape(*x.shape[:-1], self.B, self.N)

    def packed(self, reset: Array) -> Array:
        """[blocks, lanes]: bit k of a byte is the reset of the block's step k."""
        steps = jnp.pad(reset, ((0, self.blocks * self.steps - self.T), (0, 0))).reshape(-1, self.steps, self.B)
        bits = jnp.left_shift(steps.astype(jnp.int32), jnp.arange(self.steps)[None, :, None])
        packed = jnp.broadcast_to(bits.sum(1).astype(jnp.uint8)[..., None], (self.blocks, self.B, self.N))
        return self._padded(packed.reshape(self.blocks, -1), pl.cdiv(self.width, ALIGNMENT) * ALIGNMENT)

    def _padded(self, x: Array, width: int) -> Array:
        missing = width - x.shape[-1]
        return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)]) if missing else x


def _memory(tiling: _Tiling, inputs: Any, outputs: Any) -> dict[str, Any]:
    """Shared memory of a program: rings of blocks, and barriers on which arriving copies report."""
    block = (tiling.steps, tiling.lanes)

    def ring(slots, shape):
        return lambda x: plgpu.SMEM((slots, *shape), x.dtype)

    reads = {
        "rows": jax.tree.map(ring(READS, block), inputs["rows"]),
        "states": [ring(READS, block)(x) for x in inputs["states"]],
        "edges": [ring(READS, block[1:])(x) for x in inputs["states"]],
        "resets": [ring(READS, block[1:])(x) for x in inputs["resets"]],
    }
    return {
        "reads": reads,
        "writes": jax.tree.map(ring(WRITES, block), outputs["results"]),
        "fixed": jax.tree.map(lambda x: plgpu.SMEM(block[1:], x.dtype), inputs["fixed"]),
        "arrived": plgpu.Barrier(num_arrivals=len(jax.tree.leaves(reads)), num_barriers=READS),
        "ready": plgpu.Barrier(num_arrivals=len(jax.tree.leaves(inputs["fixed"]))),
    }


class _Program:
    """The program of one tile: refs of global memory (inputs, outputs) and of its shared memory."""

    def __init__(self, tiling: _Tiling, inputs: Any, outputs: Any, memory: dict[str, Any]):
        self.tiling, self.inputs, self.outputs = tiling, inputs, outputs
        self.reads, self.writes, self.fixed = memory["reads"], memory["writes"], memory["fixed"]
        self.arrived, self.ready = memory["arrived"], memory["ready"]
        self.lanes = pl.ds(lax.axis_index("tile") * tiling.lanes, tiling.lanes)

    def run(self, start: Callable, step: Callable, finish: Callable) -> None:
        blocks = self.tiling.blocks
        for i in range(min(READS, blocks)):
            self.fetch(jnp.int32(i))
        fixed = self.load_fixed()

        def block(i, carry):
            plgpu.barrier_wait(self.arrived.at[_slot(i, READS)])
            plgpu.wait_smem_to_gmem(WRITES - 1, wait_read_only=True)  # this block's slot is free again
            carry = self.steps(step, carry, fixed, i)
            plgpu.commit_smem()
            self.send(i)
            pl.when(i + READS < blocks)(lambda: self.fetch(i + READS))
            return carry

        carry = lax.fori_loop(0, blocks, block, start(fixed))
        self.store_finals(finish(carry))
        plgpu.wait_smem_to_gmem(0)

    def fetch(self, i: Any) -> None:
        """Starts the copies of the i-th block of the walk into its slot."""
        n, slot = self.place(i), _slot(i, READS)
        rows = pl.ds(n * self.tiling.steps, self.tiling.steps)
        for name, index in (("rows", rows), ("states", rows), ("edges", self.edge(n)), ("resets", n)):
            sources = self.inputs["states" if name == "edges" else name]
            for source, ring in zip(jax.tree.leaves(sources), jax.tree.leaves(self.reads[name]), strict=True):
                plgpu.copy_gmem_to_smem(source.at[index, self.lanes], ring.at[slot], self.arrived.at[slot])

    def send(self, i: Any) -> None:
        """Starts the copies of the i-th block's results."""
        rows = pl.ds(self.place(i) * self.tiling.steps, self.tiling.steps)
        for ring, target in zip(jax.tree.leaves(self.writes), jax.tree.leaves(self.outputs["results"]), strict=True):
            plgpu.copy_smem_to_gmem(ring.at[_slot(i, WRITES)], target.at[rows, self.lanes], commit_group=False)
        plgpu.commit_smem_to_gmem_group()

    def load_fixed(self) -> list[Planes]:
        for source, memory in zip(jax.tree.leaves(self.inputs["fixed"]), jax.tree.leaves(self.fixed), strict=True):
            plgpu.copy_gmem_to_smem(source.at[self.lanes], memory, self.ready)
        plgpu.barrier_wait(self.ready)
        return [tuple(memory[...] for memory in planes) for planes in self.fixed]

    def store_finals(self, finals: list[Planes]) -> None:
        """Through the memory of the fixed planes, which are in registers."""
        stores = list(zip(jax.tree.leaves(self.fixed), jax.tree.leaves(finals), strict=False))
        for memory, x in stores:
            memory[...] = x
        plgpu.commit_smem()
        for (memory, _), target in zip(stores, jax.tree.leaves(self.outputs["finals"]), strict=True):
            plgpu.copy_smem_to_gmem(memory, target.at[self.lanes])

    def steps(self, step: Callable, carry: Any, fixed: list[Planes], i: Any) -> Any:
        """The steps of the i-th block."""
        tiling = self.tiling
        full = self.place(i) < tiling.blocks - 1
        for u, now in self.load(fixed, i):
            after, results = step(carry, now)
            carry = after if tiling.always(u) else _where(full, after, carry)
            for ring, x in zip(jax.tree.leaves(self.writes), jax.tree.leaves(results), strict=True):
                ring[_slot(i, WRITES), u] = x.astype(ring.dtype)
        return carry

    def load(self, fixed: list[Planes], i: Any) -> list[tuple[int, _Now]]:
        """The rows of the i-th block in the walk's order, all before the first is used: none waits for the carry."""
        slot, order = _slot(i, READS), range(self.tiling.steps)
        resets = [ring[slot].astype(jnp.int32) for ring in self.reads["resets"]]
        loaded = []
        for u in order[::-1] if self.tiling.descending else order:
            rows = [_load(planes, slot, u) for planes in self.reads["rows"]]
            before = self.before(fixed[0], i, u) if self.reads["states"] else None
            cut = (resets[0] & (1 << u)) != 0 if resets else None
            loaded.append((u, _Now(fixed, rows, before, cut)))
        return loaded

    def before(self, h0: Planes, i: Any, u: int) -> Planes:
        """The state before step u of the i-th block, which is one row behind, ahead in this walk: see `edge`."""
        tiling, slot = self.tiling, _slot(i, READS)
        row = u + tiling.ahead
        inside = 0 <= row < tiling.steps
        before = _load(self.reads["states"], slot, row) if inside else _load(self.reads["edges"], slot)
        if u != tiling.first_step % tiling.steps:
            return before
        return _where(self.place(i) == tiling.first_step // tiling.steps, h0, before)

    def edge(self, n: Any) -> Any:
        """The row of the states next to block n, from which its last step in this walk starts; any row for the last."""
        tiling = self.tiling
        if tiling.descending:
            return jnp.maximum(n * tiling.steps - 1, 0)
        return jnp.minimum((n + 1) * tiling.steps, tiling.T - 1)

    def place(self, i: Any) -> Any:
        """Where in the arrays the i-th block of the walk is."""
        return self.tiling.blocks - 1 - i if self.tiling.descending else i


def _zeros(shape: tuple[int]) -> Array:
    """Dealt out to threads like what is loaded: a loop's carry must not change in this."""
    strided = plgpu.Layout.WG_STRIDED(shape, vec_size=shape[0] // WARPGROUP)
    return plgpu.layout_cast(jnp.zeros(shape), strided)


def _slot(i: Any, slots: int) -> Any:
    return lax.rem(i, jnp.int32(slots))


def _load(planes: Sequence[Any], *index: Any) -> Planes:
    return tuple(ring[index].astype(jnp.float32) for ring in planes)


def _where(condition: Any, x: Any, y: Any) -> Any:
    """A choice for all lanes alike."""
    return jax.tree.map(lambda p, q: jnp.where(jnp.broadcast_to(condition, p.shape), p, q), x, y)
