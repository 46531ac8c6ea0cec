"""Recurrent cells over a whole sequence: everything that must be sequential, and nothing else.

The input projection of all steps is one product before the scan, so it arrives here as `gates`. In the backward pass
the scan returns the gradient of each step's pre-activations, and the recurrent weight's gradient is one product after
it: on 2 CPU cores this halves the time of the scan that automatic differentiation builds.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from memrl.errors import check
from memrl.kernels.backends import by_platform, compute_capability, is_portable
from memrl.types import Array

Arrays = Sequence[Array]


class Cell(NamedTuple):
    """A cell's equations, element by element; the products with U and the walk over time are shared.

    They must not index, slice or join arrays, which a kernel for the GPU cannot do with what it has loaded.
    """

    name: str  # of the function that users call
    num_gates: int
    num_states: int  # the first of them is the output h, which the recurrent product takes
    num_saved: int
    forward: Callable[[Arrays, Arrays, Arrays], tuple[Arrays, Arrays]]
    """(gates, h U of each gate, states before) -> (states after, what the gradient needs besides them)."""
    backward: Callable[[Arrays, Arrays, Arrays, Arrays], tuple[Arrays, Arrays, Arrays]]
    """(gradients of the states after, states before, states after, saved) -> gradients of the states before, but for
    what goes through U, of the gates, and of h U."""
    one_sum: bool
    """Whether gates and h U are only ever added, so that their gradients are the same."""


def check_cell_arguments(cell: Cell, gates: Array, kernel: Array, h0: Array, reset: Array | None) -> None:
    """Shapes of a recurrent cell's arguments: one error line that names the argument."""
    name, num_gates = cell.name, cell.num_gates
    check(h0.ndim == 2, f"{name}: h0 has shape {h0.shape}, expected [B, N]")
    B, N = h0.shape
    check(
        gates.ndim == 3 and gates.shape[1:] == (B, num_gates * N),
        f"{name}: gates has shape {gates.shape}, expected [T, {B}, {num_gates * N}]",
    )
    check(
        kernel.shape == (N, num_gates * N),
        f"{name}: kernel has shape {kernel.shape}, expected {(N, num_gates * N)}",
    )
    check(
        reset is None or (reset.shape == gates.shape[:2] and reset.dtype == jnp.bool_),
        f"{name}: reset is {getattr(reset, 'dtype', None)}{getattr(reset, 'shape', None)}, "
        f"expected bool{gates.shape[:2]}",
    )


def cell_scan(
    cell: Cell, gates: Array, kernel: Array, states: Arrays, reset: Array | None, backend: str
) -> tuple[Array, Arrays]:
    """h [T, B, N] and the last states, step by step.

    Args:
        cell: the equations.
        gates: [T, B, G N].
        kernel: U, [N, G N].
        states: before the first step, each [B, N].
        reset: [T, B] bool; true where the states before step t are zero.
        backend: "auto", "reference", "xla", "pallas" or "interpret".
    """
    if backend == "reference" or gates.size == 0:
        (h,), last, _ = _sequential(gates, kernel, reset, *states, cell=cell, save=False)
        return h, last
    obstacle = _obstacle(cell, gates, kernel, states[0])
    if backend == "auto" and obstacle:
        backend = "xla"
    check(backend == "xla" or not obstacle, f"{cell.name}: backend is {backend!r} with {obstacle}")
    return _scan(gates, kernel, reset, tuple(states), cell, backend)


def _obstacle(cell: Cell, gates: Array, kernel: Array, h0: Array) -> str | None:
    """Why the kernel for the GPU does not take these arguments, if it does not."""
    if is_portable():
        return "a program for several platforms"
    floats = (jnp.float32, jnp.bfloat16)
    for name, x, dtypes in (("gates", gates, floats), ("kernel", kernel, floats), ("h0", h0, floats[:1])):
        if x.dtype not in dtypes:
            return f"{name} in {x.dtype}, expected {' or '.join(jnp.dtype(d).name for d in dtypes)}"
    if gates.size >= 2**31:
        return f"gates of {gates.size} numbers, expected fewer than 2**31, which its addresses count"
    N, most = kernel.shape[0], _widest_on_chip(cell.num_gates, kernel.dtype)
    return f"N = {N}, expected at most {most} for a kernel in {kernel.dtype} on this card" if most < N else None


def _widest_on_chip(num_gates: int, dtype: Any) -> int:
    """The largest N whose U a program of the kernel for the GPU keeps in shared memory."""
    chip = 64 << 10 if compute_capability() in SMALL_CHIPS else 128 << 10  # for U, of 99 KiB, or of 163 or more
    element = 8 if dtype == jnp.float32 else 2  # bytes; float32 as two parts, see `cells_triton`
    N = 16
    while num_gates * (2 * N) ** 2 * element <= chip:
        N *= 2
    return N


SMALL_CHIPS = (8.6, 8.9, 12.0, 12.1)  # compute capabilities with 99 KiB of shared memory to a program


def _by_backend(gates, kernel, reset, states, cell, backend):
    run = by_platform(
        cell.name,
        backend,
        axes=_axes(cell),
        cpu=partial(_sequential, cell=cell, save=False),
        cuda=partial(_triton, cell=cell, save=False),
    )
    (h,), last, _ = run(gates, kernel, reset, *states)
    return h, last


_scan: Any = jax.custom_vjp(_by_backend, nondiff_argnums=(4, 5))


def _scan_forward(gates, kernel, reset, states, cell, backend):
    run = by_platform(
        cell.name,
        backend,
        axes=_axes(cell),
        cpu=partial(_sequential, cell=cell, save=True),
        cuda=partial(_triton, cell=cell, save=True),
    )
    after, last, saved = run(gates, kernel, reset, *states)
    return (after[0], last), (gates, kernel, reset, states, after, saved)


def _scan_backward(cell, backend, residuals, cotangents):
    run = by_platform(
        cell.name,
        backend,
        axes="TBN NM TB BN TBN TBN TBN BN -> TBN NM BN",
        cpu=partial(_sequential_backward, cell=cell),
        cuda=partial(_triton_backward, cell=cell),
    )
    dgates, dkernel, dstates = run(*residuals, *cotangents)
    return dgates, dkernel, None, dstates


_scan.defvjp(_scan_forward, _scan_backward)


def _axes(cell: Cell) -> str:
    """Of what the forward pass takes and gives, for `by_platform`."""
    return f"TBN NM TB{' BN' * cell.num_states} -> TBN BN TBN"


def keep(reset: Array | None, states: Arrays) -> tuple[Array, ...]:
    """Each of `states` [..., B, N], zero in the rows that reset, [..., B]."""
    return tuple(states) if reset is None else tuple(jnp.where(reset[..., None], 0, s) for s in states)


def before_each_step(reset: Array | None, first: Arrays, after: Arrays) -> tuple[Array, ...]:
    """The states [T, B, N] that each step took, from those before the first step and those after each."""
    return keep(reset, [jnp.concatenate([s0[None], s])[:-1] for s0, s in zip(first, after, strict=True)])


def cell_step(cell: Cell, gates: Array, kernel: Array, states: Arrays) -> tuple[Arrays, Arrays]:
    """The states after a step, or after many at once, [..., B, N], and what the gradient needs besides them."""
    h = states[0]
    recurrent = jnp.dot(h.astype(kernel.dtype), kernel, preferred_element_type=h.dtype)
    return cell.forward(split(cell, gates.astype(h.dtype)), split(cell, recurrent), states)


def cell_step_backward(
    cell: Cell, transposed: Array, dstates: Arrays, before: Arrays, after: Arrays, saved: Arrays
) -> tuple[Arrays, Array, Arrays | None]:
    """Gradients of the states before a step, of h U, [..., B, G N], and of the gates where they are not the same.

    It takes U transposed, [G N, N]: transposed before the walk over time, U is read in order at every step.
    """
    (dh, *rest), dgates, drecurrent = cell.backward(dstates, before, after, saved)
    joined = jnp.concatenate(drecurrent, -1)
    dh = dh + jnp.dot(joined.astype(transposed.dtype), transposed, preferred_element_type=joined.dtype)
    return (dh, *rest), joined, None if cell.one_sum else dgates


def split(cell: Cell, gates: Array) -> list[Array]:
    """[..., G N] as G times [..., N]."""
    return jnp.split(gates, cell.num_gates, -1)


def weight_gradients(
    gates: Array, kernel: Array, h_tm1: Array, drecurrent: Array, dgates: Arrays | None
) -> tuple[Array, Array]:
    """Of gates and of U, from the gradients of h U and, where they are others, of the gates."""
    dkernel = jnp.einsum("tbn,tbm->nm", h_tm1, drecurrent).astype(kernel.dtype)
    joined = drecurrent if dgates is None else jnp.concatenate(dgates, -1)
    return joined.astype(gates.dtype), dkernel


def _sequential(gates, kernel, reset, *states, cell, save):
    """States after each step ([h] alone when nothing is to be saved), the last ones, and what is saved."""

    def forward(states, inputs):
        gates_t, reset_t = inputs
        states, saved = cell_step(cell, gates_t, kernel, keep(reset_t, states))
        return tuple(states), (tuple(states), tuple(saved)) if save else (tuple(states[:1]), ())

    last, (after, saved) = lax.scan(forward, states, (gates, reset))
    return after, last, saved


def _sequential_backward(gates, kernel, reset, states, after, saved, g, g_last, *, cell):
    before, transposed = before_each_step(reset, states, after), kernel.T

    def backward(dstates, inputs):
        g_t, reset_t, *rest = inputs
        dstates, drecurrent, dgates = cell_step_backward(cell, transposed, (g_t + dstates[0], *dstates[1:]), *rest)
        return keep(reset_t, dstates), (drecurrent, dgates)

    dstates, gradients = lax.scan(backward, g_last, (g, reset, before, after, saved), reverse=True)
    return *weight_gradients(gates, kernel, before[0], *gradients), dstates


def states_one_by_one(cell: Cell, gates: Array, kernel: Array, states: Arrays, reset: Array | None) -> Arrays:
    """All states after each step, each [T, B, N]."""
    return _sequential(gates, kernel, reset, *states, cell=cell, save=True)[0]


def _triton(gates, kernel, reset, *states, cell, save, interpret):
    from memrl.kernels import cells_triton  # imports Pallas, 0.3 s

    return cells_triton.forward(cell, gates, kernel, reset, states, save=save, interpret=interpret)


def _triton_backward(gates, kernel, reset, states, after, saved, g, g_last, *, cell, interpret):
    from memrl.kernels import cells_triton

    drecurrent, dgates, dstates = cells_triton.backward(
        cell, gates.dtype, kernel, reset, states, after, saved, g, g_last, interpret=interpret
    )
    h_tm1, *_ = before_each_step(reset, states[:1], after[:1])
    joined, dkernel = weight_gradients(gates, kernel, h_tm1, drecurrent, None if dgates is None else [dgates])
    return joined, dkernel, dstates
