"""Nonlinear recurrences parallel in time, by Newton's method over the linear scan (Danieli et al. 2025, "ParaRNN").

h_t = f_t(h_{t-1}) for all t is a system of equations. Linearised at a guess it is a linear recurrence; with the
diagonal of each step's Jacobian in the place of all of it (Gonzalez et al. 2024, "quasi-DEER") that is what
`linear_scan` solves:

    h_t = D_t h_{t-1} + (f_t(g_{t-1}) - D_t g_{t-1})   for the guess g.

After k iterations the first k steps after the start, or after a reset, are exact, whatever the cell. Where the residual
is not small enough after the allowed iterations, the sequence is computed step by step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from memrl.errors import check
from memrl.kernels.cells import (
    Arrays,
    Cell,
    before_each_step,
    cell_step,
    cell_step_backward,
    keep,
    states_one_by_one,
    weight_gradients,
)
from memrl.kernels.linear_scan import linear_scan
from memrl.types import Array


@dataclass(frozen=True)
class NewtonOptions:
    """When to stop."""

    iterations: int = 32
    """The most that are tried before the sequence is computed step by step."""
    tolerance: float = 1e-6
    """The largest |h_t - f_t(h_{t-1})| that is accepted; of gradients, relative to the largest that comes in."""

    def __post_init__(self):
        check(self.iterations >= 1, f"newton: iterations is {self.iterations}, expected at least 1")
        check(self.tolerance > 0, f"newton: tolerance is {self.tolerance}, expected above 0")


DEFAULT_NEWTON = NewtonOptions()


def newton_scan(
    cell: Cell, gates: Array, kernel: Array, states: Arrays, reset: Array | None, options: NewtonOptions
) -> tuple[Array, Arrays]:
    """h [T, B, N] and the last states of `cell`, all steps at once; arguments as in `cell_scan`.

    A cell of several states is one recurrence of their concatenation, with the diagonal of its whole Jacobian.
    """
    reset = jnp.zeros(gates.shape[:2], bool) if reset is None else reset
    return _newton(gates, kernel, tuple(states), reset, cell, options)


def _by_newton(gates, kernel, states, reset, cell, options):
    return _newton_forward(gates, kernel, states, reset, cell, options)[0]


_newton: Any = jax.custom_vjp(_by_newton, nondiff_argnums=(4, 5))


def _newton_forward(gates, kernel, states, reset, cell, options):
    def one_step(before):
        before = keep(reset, _states(cell, before))
        after, saved = cell_step(cell, gates, kernel, before)
        return _joined(after), _jacobian_diagonal(cell, kernel, before, after, saved)

    first = _joined(states)
    after, solved, _ = solve(one_step, first, reset, tolerance=options.tolerance, iterations=options.iterations)
    after = lax.cond(solved, lambda: after, lambda: _joined(states_one_by_one(cell, gates, kernel, states, reset)))
    last = _states(cell, jnp.concatenate([first[None], after])[-1])
    after = _states(cell, after)
    return (after[0], last), (gates, kernel, states, reset, after)


def _newton_backward(cell, options, residuals, cotangents):
    """The adjoint is a recurrence too, from the last step to the first: y_t is what step t hands to the one before."""
    gates, kernel, states, reset, after = residuals
    g, g_last = cotangents
    before = before_each_step(reset, states, after)
    after, saved = cell_step(cell, gates, kernel, before)
    diagonal = _jacobian_diagonal(cell, kernel, before, after, saved)
    transposed = kernel.T

    def back(reset, g, later, *values):
        """What a step, or each of many, hands on, and the gradients of its gates."""
        dh, *rest = _states(cell, later)
        dstates, drecurrent, dgates = cell_step_backward(cell, transposed, (g + dh, *rest), *values)
        return _joined(keep(reset, dstates)), drecurrent, dgates

    def one_by_one():
        def one_step(later, inputs):
            y, *_ = back(*inputs[:2], later, *inputs[2:])
            return y, y

        return lax.scan(one_step, last, (reset, g, before, after, saved), reverse=True)[1]

    last = _joined(g_last)
    largest = jnp.maximum(jnp.max(jnp.abs(g), initial=0), jnp.max(jnp.abs(last), initial=0))
    y, solved, _ = solve(
        lambda later: (back(reset, g, later, before, after, saved)[0], diagonal),
        last,
        reset,
        tolerance=options.tolerance * largest,
        iterations=options.iterations,
        reverse=True,
    )
    y = jnp.concatenate([lax.cond(solved, lambda: y, one_by_one), last[None]])
    _, drecurrent, dgates = back(reset, g, y[1:], before, after, saved)
    return *weight_gradients(gates, kernel, before[0], drecurrent, dgates), tuple(_states(cell, y[0])), None


_newton.defvjp(_newton_forward, _newton_backward)


def _joined(states: Arrays) -> Array:
    return jnp.concatenate(states, -1)


def _states(cell: Cell, joined: Array) -> Arrays:
    return jnp.split(joined, cell.num_states, -1)


def _jacobian_diagonal(cell: Cell, kernel: Array, before: Arrays, after: Arrays, saved: Arrays) -> Array:
    """d s_i / d s_{t-1, i} of every state s, [T, B, S N]: the gradient of s_i when nothing else has one."""
    N, S = kernel.shape[0], cell.num_states
    dtype = after[0].dtype
    through_kernel = jnp.diagonal(kernel.reshape(N, cell.num_gates, N), axis1=0, axis2=2).astype(dtype)

    def diagonal(s: int) -> Array:
        direct, _, drecurrent = cell.backward(tuple(jnp.eye(S, dtype=dtype)[s]), before, after, saved)
        if s > 0:  # h alone goes through the kernel
            return direct[s]
        return direct[s] + sum(d * u for d, u in zip(drecurrent, through_kernel[:, None, None], strict=True))

    return _joined([diagonal(s) for s in range(S)])


def solve(
    step: Callable[[Array], tuple[Array, Array]],
    h0: Array,
    cut: Array,
    *,
    tolerance: Array | float,
    iterations: int,
    reverse: bool = False,
) -> tuple[Array, Array, Array]:
    """h_t = f_t(h_{t-1}) for T steps at once.

    Args:
        step: from h_{t-1} of all steps, [T, B, N], to f_t(h_{t-1}) and the diagonal of its Jacobian, both [T, B, N].
        h0: the state before the first step, [B, N].
        cut: [T, B] bool; where true, f_t does not depend on h_{t-1}, whatever `step` gives as its Jacobian.
        tolerance: of the residual.
        iterations: the most that are done.
        reverse: from the last step to the first: h_t = f_t(h_{t+1}).

    Returns:
        h [T, B, N], whether its residual is within the tolerance (false for NaN), and how many iterations were done.
    """

    def before(h: Array) -> Array:
        return jnp.concatenate([h, h0[None]])[1:] if reverse else jnp.concatenate([h0[None], h])[:-1]

    def linearised(h: Array) -> tuple[Array, Array, Array, Array]:
        values, diagonal = step(before(h))
        return h, values, diagonal, jnp.max(jnp.abs(h - values), initial=0)

    def unfinished(carry: Any) -> Array:
        iteration, (*_, residual) = carry
        return (residual > tolerance) & (iteration < iterations)

    def iterate(carry: Any) -> Any:
        iteration, (h, values, diagonal, _) = carry
        remainder = values - jnp.where(cut[..., None], 0, diagonal * before(h))
        h, _ = linear_scan(diagonal, remainder, h0, cut, reverse=reverse)
        return iteration + 1, linearised(h)

    start = jnp.int32(0), linearised(jnp.zeros((*cut.shape, h0.shape[-1]), h0.dtype))
    iteration, (h, _, _, residual) = lax.while_loop(unfinished, iterate, start)
    return h, residual <= tolerance, iteration
