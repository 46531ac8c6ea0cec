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

import jax.numpy as jnp
from jax import lax

from memrl.errors import check
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
