"""The selective scan on NVIDIA GPUs: Pallas kernels for its Triton back end.

A program owns some channels of one environment and walks through time with their states in registers, so that of the
states only those before each chunk go to memory: N / chunk times what one sequence of inputs takes. The backward
kernel goes from the last step to the first. It computes the states of HELD steps again, from where their chunk begins,
holds them in registers and goes back through them. Keeping them in memory would cost N reads and writes of a number
for each of x; computing them costs an exponential and three more instructions each.

What sums over all channels (the gradients of B and C) or over all environments (of A and D) leaves a program as a
partial sum, and XLA adds them up, always in the same order.

A tile of states is [N / INNER, channels, INNER]: Triton gives the lanes of a warp to the last axes, so that each sum,
over states or over channels, is mostly a thread's own and takes few exchanges between threads. One warp makes a
program: no sum crosses warps, and none waits for another.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from memrl.types import Array

# Not tuned on a card yet.
CHANNELS = 32  # of a tile, a power of two
HELD = 4  # steps whose states are in registers at once, a divisor of the chunk; 8 compile several times slower
INNER = 4  # states of a channel that lie in neighbouring threads, a power of two
NUM_WARPS = 1
LN_2 = math.log(2)

Named: TypeAlias = dict[str, Any]


def forward(
    x: Array,
    dt: Array,
    A: Array,
    B: Array,
    C: Array,
    D: Array | None,
    h0: Array,
    reset: Array | None,
    *,
    chunk: int,
    keep_starts: bool,
    interpret: bool = False,
) -> tuple[Array, Array, Array | None]:
    """y [T, b, d] like x, the last state [b, N, d] and, if wanted, the states before each chunk, [M, b, N, d].

    Args:
        x, dt: [T, b, d]; T, b, d and N are at least 1.
        A: [N, d], float32.
        B, C: [T, b, N].
        D: [d] or None, float32.
        h0: [b, N, d], float32.
        reset: [T, b] bool or None.
        chunk: how many steps each.
        keep_starts: whether the states before the chunks are wanted.
        interpret: run by JAX's interpreter, on any platform.
    """
    inputs = {"x": x, "dt": dt, "A": A, "B": B, "C": C, "D": D, "h0": h0, "reset": reset}
    tiling = _Tiling(x, A, chunk)

    def kernel(refs):
        tile = _Tile(tiling, refs)
        A, skip = tile.state("A") / LN_2, tile.skip()  # exp(dt A) by a power of two

        def run(m, h):
            if keep_starts:
                tile.store_state("starts", h, m)
            return lax.fori_loop(0, tiling.parts, lambda p, h: part(tiling.steps(m, p), h), h)

        def part(steps, h):
            loaded = [tile.step(t, "x", "dt", "B", "C") for t in steps]
            for t, (x_t, dt_t, B_t, C_t, cut) in zip(steps, loaded, strict=True):
                h = tile.next_state(h, A, x_t, dt_t, B_t, cut)
                tile.store_channels("y", _over_states(C_t * h) + skip * x_t, t)
            return h

        tile.store_state("h_last", lax.fori_loop(0, tiling.M, run, tile.state("h0")))

    outputs = {"y": jax.ShapeDtypeStruct(x.shape, x.dtype), "h_last": tiling.states()}
    if keep_starts:
        outputs["starts"] = tiling.states(tiling.M)
    results = _call(kernel, tiling, inputs, outputs, interpret)
    return results["y"], results["h_last"], results.get("starts")


def backward(
    x: Array,
    dt: Array,
    A: Array,
    B: Array,
    C: Array,
    D: Array | None,
    reset: Array | None,
    starts: Array,
    g: Array,
    g_last: Array,
    *,
    chunk: int,
    interpret: bool = False,
) -> tuple[Array, Array, Array, Array, Array, Array | None, Array]:
    """Gradients of x, dt, A, B, C, D and h0, in their types.

    With s_t = exp(dt_t A) h_{t-1} and the adjoint lambda_t = C_t g_t + exp(dt_{t+1} A) lambda_{t+1},

        dx = dt sum_n(lambda B) + D g,   ddt = sum_n(lambda s A) + x sum_n(lambda B),   dA = sum_t(lambda s dt),
        dB = sum_d(lambda dt x),   dC = sum_d(h g),   dD = sum_t(g x).

    Args:
        x, dt, A, B, C, D, reset, chunk, interpret: as in `forward`.
        starts: the states before each chunk, [M, b, N, d].
        g: gradient of y, [T, b, d].
        g_last: gradient of the last state, [b, N, d].
    """
    inputs = {"x": x, "dt": dt, "A": A, "B": B, "C": C, "D": D, "reset": reset}
    inputs |= {"starts": starts, "g": g, "g_last": g_last}
    tiling = _Tiling(x, A, chunk)

    def kernel(refs):
        tile = _Tile(tiling, refs)
        A, skip = tile.state("A") / LN_2, tile.skip()  # exp(dt A) by a power of two

        def run(n, carry):
            m = tiling.M - 1 - n
            return lax.fori_loop(0, tiling.parts, lambda n, carry: part(m, tiling.parts - 1 - n, carry), carry)

        def part(m, p, carry):
            flow, dA, dD = carry  # flow: exp(dt_{t+1} A) lambda_{t+1}, already cut by resets
            start = tile.state("starts", m)
            states = [lax.fori_loop(0, p, lambda p, h: forward_again(tiling.steps(m, p), h)[-1], start)]
            steps = tiling.steps(m, p)
            states += forward_again(steps, states[0])
            for t, h_tm1, h in reversed(list(zip(steps, states, states[1:], strict=False))):
                x_t, dt_t, B_t, C_t, g_t, cut = tile.step(t, "x", "dt", "B", "C", "g")
                decay = jnp.exp2(dt_t * A)
                adjoint = tile.only_live(flow + C_t * g_t)
                flow = _keep(cut, decay * adjoint)
                through_decay = tile.only_live(_keep(cut, decay * adjoint * h_tm1), t)
                into = _over_states(adjoint * B_t)
                tile.store_channels("dx", into * dt_t + skip * g_t, t)
                tile.store_channels("ddt", LN_2 * _over_states(through_decay * A) + into * x_t, t)
                tile.store_sum("dB", adjoint * (dt_t * x_t), t)
                tile.store_sum("dC", h * g_t, t)
                dA = dA + through_decay * dt_t
                dD = dD + g_t * x_t
            return flow, dA, dD

        def forward_again(steps, h):
            loaded = [tile.step(t, "x", "dt", "B") for t in steps]
            return list(itertools.accumulate(loaded, lambda h, step: tile.next_state(h, A, *step), initial=h))[1:]

        nothing = jnp.zeros(tiling.shape, jnp.float32)
        start = tile.state("g_last"), nothing, jnp.zeros((1, tiling.channels, 1), jnp.float32)
        flow, dA, dD = lax.fori_loop(0, tiling.M, run, start)
        tile.store_state("dh0", flow)
        tile.store_state("dA", dA)
        if D is not None:
            tile.store_channels("dD", dD)

    like, partial = jax.ShapeDtypeStruct, (tiling.grid[1], *B.shape)
    outputs = {"dx": like(x.shape, x.dtype), "ddt": like(dt.shape, dt.dtype), "dh0": tiling.states()}
    outputs |= {"dA": tiling.states(), "dB": like(partial, jnp.float32), "dC": like(partial, jnp.float32)}
    if D is not None:
        outputs["dD"] = like(x.shape[1:], jnp.float32)
    results = _call(kernel, tiling, inputs, outputs, interpret)
    dA, dB, dC = (results[name].sum(0) for name in ("dA", "dB", "dC"))
    dD = None if D is None else results["dD"].sum(0)
    return results["dx"], results["ddt"], dA, dB.astype(B.dtype), dC.astype(C.dtype), dD, results["dh0"]


def _over_states(z: Array) -> Array:
    """The sum over a channel's states, [1, channels, 1]; a thread's own first."""
    return z.sum(0).sum(1)[None, :, None]


def _keep(cut: Array | None, x: Array) -> Array:
    return x if cut is None else jnp.where(cut, 0.0, x)


class _Tiling:
    """The states dealt out to programs: all those of some channels of one environment to each."""

    def __init__(self, x: Array, A: Array, chunk: int):
        self.T, self.b, self.d = x.shape
        self.N = A.shape[0]
        self.chunk, self.M = chunk, pl.cdiv(self.T, chunk)
        self.held = min(HELD, self.T)
        self.parts = pl.cdiv(min(chunk, self.T), self.held)  # of a chunk
        self.width = pl.next_power_of_2(self.N)
        inner = min(INNER, self.width)
        self.channels = min(CHANNELS, pl.next_power_of_2(self.d))
        self.shape = (self.width // inner, self.channels, inner)
        self.grid = (self.b, pl.cdiv(self.d, self.channels))

    @property
    def has_tail(self) -> bool:
        """Whether the last chunk has steps beyond the end."""
        return self.M * self.parts * self.held != self.T

    def steps(self, m: Any, p: Any) -> list:
        """Those of part p of chunk m."""
        return [m * self.chunk + p * self.held + k for k in range(self.held)]

    def states(self, *leading: int) -> jax.ShapeDtypeStruct:
        """[..., b, N, d]."""
        return jax.ShapeDtypeStruct((*leading, self.b, self.N, self.d), jnp.float32)

    def spec(self, name: str, x: Array | jax.ShapeDtypeStruct) -> pl.BlockSpec:
        """How the array of that name is dealt out to the programs."""
        match name:
            case "A":
                return pl.BlockSpec((self.width, self.channels), lambda i, j: (0, j))
            case "D":
                return pl.BlockSpec((self.channels,), lambda i, j: (j,))
            case "dD":
                return pl.BlockSpec((None, self.channels), lambda i, j: (i, j))
            case "reset":
                return pl.BlockSpec((self.T, None), lambda i, j: (0, i))
            case "B" | "C":
                return pl.BlockSpec((self.T, None, self.width), lambda i, j: (0, i, 0))
            case "dB" | "dC":
                return pl.BlockSpec((None, self.T, None, self.width), lambda i, j: (j, 0, i, 0))
            case "x" | "dt" | "g" | "y" | "dx" | "ddt":
                return pl.BlockSpec((self.T, None, self.channels), lambda i, j: (0, i, j))
            case "starts":
                return pl.BlockSpec((x.shape[0], None, self.width, self.channels), lambda i, j: (0, i, 0, j))
        return pl.BlockSpec((None, self.width, self.channels), lambda i, j: (i, 0, j))  # a state [b, N, d]


class _Tile:
    """The states of the program that runs. Those beyond the edges are zero, and nothing is read or written there.

    The last chunk may have steps beyond the end. They read zeros, so that nothing decays and nothing enters.
    """

    def __init__(self, tiling: _Tiling, refs: Named):
        self.tiling, self.refs = tiling, refs
        channels = pl.program_id(1) * tiling.channels + jnp.arange(tiling.channels)
        self.channels, self.states = channels < tiling.d, jnp.arange(tiling.width) < tiling.N
        self.matrix = self.states[:, None] & self.channels[None, :]
        whole = tiling.width == tiling.N and tiling.d % tiling.channels == 0
        self.live = None if whole else self._tile(self.matrix)

    def step(self, t: Any, *names: str) -> tuple:
        """The arrays of those names at step t, each to be broadcast over a tile, and whether the step resets."""
        outer, _, inner = self.tiling.shape
        arrays = []
        for name in names:
            if name in ("B", "C"):
                states = _load(self.refs[name].at[t], self._until_end(t, self.states))
                arrays.append(states.reshape(outer, inner)[:, None, :])
            else:
                arrays.append(_load(self.refs[name].at[t], self._until_end(t, self.channels))[None, :, None])
        return *arrays, self._reset(t)

    def state(self, name: str, at: Any = None) -> Array:
        """A tile of states."""
        ref = self.refs[name] if at is None else self.refs[name].at[at]
        return self._tile(_load(ref, self.matrix))

    def skip(self) -> Array | float:
        """D, [1, channels, 1], or zero."""
        return _load(self.refs["D"], self.channels)[None, :, None] if "D" in self.refs else 0.0

    def next_state(self, h: Array, A: Array, x_t: Array, dt_t: Array, B_t: Array, cut: Array | None) -> Array:
        """h_t; A in powers of two."""
        return self.only_live(_keep(cut, jnp.exp2(dt_t * A) * h) + (dt_t * x_t) * B_t)

    def only_live(self, x: Array, t: Any = None) -> Array:
        """`x`, zero beyond the edges and, where t is given, beyond the end: there may be NaN where inf came in."""
        end = None if t is None else self._until_end(t)
        x = x if end is None else jnp.where(end, x, 0.0)
        return x if self.live is None else jnp.where(self.live, x, 0.0)

    def store_state(self, name: str, h: Array, at: Any = None) -> None:
        """Writes a tile of states."""
        ref = self.refs[name] if at is None else self.refs[name].at[at]
        matrix = h.transpose(0, 2, 1).reshape(self.tiling.width, self.tiling.channels)
        triton.store(ref, matrix, mask=self.matrix)

    def store_channels(self, name: str, z: Array, t: Any = None) -> None:
        """Writes [1, channels, 1], of step t where it is given."""
        ref = self.refs[name] if t is None else self.refs[name].at[t]
        mask = self.channels if t is None else self._until_end(t, self.channels)
        triton.store(ref, z.reshape(-1).astype(ref.dtype), mask=mask)

    def store_sum(self, name: str, z: Array, t: Any) -> None:
        """Writes the sum of a tile over its channels, of step t."""
        triton.store(self.refs[name].at[t], z.sum(1).reshape(-1), mask=self._until_end(t, self.states))

    def _reset(self, t: Any) -> Array | None:
        if "reset" not in self.refs:
            return None
        mask = self._until_end(t)
        return triton.load(self.refs["reset"].at[t], mask=mask, other=None if mask is None else 0) != 0

    def _until_end(self, t: Any, mask: Any = None) -> Any:
        """`mask` where step t exists; None for a mask that is true everywhere."""
        if not self.tiling.has_tail:
            return mask
        return t < self.tiling.T if mask is None else mask & (t < self.tiling.T)

    def _tile(self, matrix: Array) -> Array:
        outer, channels, inner = self.tiling.shape
        return matrix.reshape(outer, inner, channels).transpose(0, 2, 1)


def _load(ref: Any, mask: Array) -> Array:
    return triton.load(ref, mask=mask, other=0).astype(jnp.float32)


def _call(kernel: Callable, tiling: _Tiling, inputs: Named, outputs: Named, interpret: bool) -> Named:
    inputs = {name: x for name, x in inputs.items() if x is not None}
    if "reset" in inputs:
        inputs["reset"] = inputs["reset"].astype(jnp.int8)
    names = (*inputs, *outputs)
    results = pl.pallas_call(
        lambda *refs: kernel(dict(zip(names, refs, strict=True))),
        out_shape=list(outputs.values()),
        grid=tiling.grid,
        in_specs=[tiling.spec(name, x) for name, x in inputs.items()],
        out_specs=[tiling.spec(name, x) for name, x in outputs.items()],
        compiler_params=triton.CompilerParams(num_warps=NUM_WARPS),
        interpret=interpret,
    )(*inputs.values())
    return dict(zip(outputs, results, strict=True))
