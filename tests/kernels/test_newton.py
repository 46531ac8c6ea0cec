"""Recurrences parallel in time: equal to the loop where the iteration converges, and else the loop itself."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cores.numeric import assert_close, normal
from quick import precise_jit

from memrl import MemrlError
from memrl.kernels import NewtonOptions, cells, gru_scan, lstm_scan
from memrl.kernels.gru import GRU
from memrl.kernels.lstm import LSTM
from memrl.kernels.newton import _jacobian_diagonal, solve

CELLS = {"gru": (gru_scan, GRU), "lstm": (lstm_scan, LSTM)}
every_cell = pytest.mark.parametrize("cell", CELLS)


def problem(cell: str, T: int, B: int, N: int, scale: float) -> Any:
    """The scan's arguments but for the reset, which comes second."""
    G, S = CELLS[cell][1].num_gates, CELLS[cell][1].num_states
    rng = np.random.default_rng(0)
    gates, kernel = normal(rng, (T, B, G * N)), np.float32(scale / np.sqrt(N)) * normal(rng, (N, G * N))
    return [jnp.asarray(x) for x in (gates, kernel, *normal(rng, (S, B, N)))], rng.random((T, B)) < 0.02


def gradients(cell: str, backend: str, options: NewtonOptions, arguments: Any, reset: Any) -> Any:
    def loss(arguments):
        h, last = CELLS[cell][0](*arguments, reset, backend=backend, newton=options)
        return jnp.sum(jnp.sin(3 * h)) + sum(map(jnp.sum, jax.tree.leaves(last))), h

    return precise_jit(jax.value_and_grad(loss, has_aux=True))(arguments)


@every_cell
@pytest.mark.parametrize(("scale", "iterations"), [(0.5, 24), (1.0, 60)])
def test_long_sequences_need_few_iterations(cell, scale, iterations, monkeypatch):
    monkeypatch.setattr("jax.lax.cond", lambda solved, newton, one_by_one: newton())  # no falling back
    arguments = problem(cell, 400, 2, 8, scale)
    (_, expected), expected_gradients = gradients(cell, "reference", NewtonOptions(), *arguments)
    (_, h), actual = gradients(cell, "newton", NewtonOptions(iterations), *arguments)
    assert_close(h, expected, 1e-5)
    assert_close(actual, expected_gradients, 1e-4)


@every_cell
@pytest.mark.parametrize("scale", [0.5, 4.0])
def test_what_does_not_converge_is_computed_step_by_step(cell, scale):
    arguments = problem(cell, 40, 2, 8, scale)
    (_, expected), expected_gradients = gradients(cell, "reference", NewtonOptions(), *arguments)
    (_, h), actual = gradients(cell, "newton", NewtonOptions(iterations=2), *arguments)
    assert_close(h, expected, 1e-6)
    assert_close(actual, expected_gradients, 1e-5)


@every_cell
def test_the_diagonal_is_that_of_the_jacobian(cell):
    """A wrong one converges too, later."""
    (gates, kernel, *states), _ = problem(cell, 1, 1, 5, 1.0)
    scan, cell = CELLS[cell]

    def last(states):
        return jnp.concatenate(jax.tree.leaves(scan(gates, kernel, *states, backend="reference")[1]), -1)[0]

    jacobian = jax.jacobian(last)(states)  # of every state after the step, by each state before it
    expected = np.diagonal(np.concatenate([j[:, 0] for j in jacobian], -1))
    before = [s[None] for s in states]
    after, saved = cells.cell_step(cell, gates, kernel, before)
    assert_close(_jacobian_diagonal(cell, kernel, before, after, saved)[0, 0], expected, 1e-6)


def cubic(T: int) -> Any:
    """h_t = x_t + h_{t-1}^3 / 4, and its solution."""
    x = np.linspace(-0.6, 0.6, T, dtype=np.float32).reshape(T, 1, 1)
    h, expected = np.float32(0.5), []
    for x_t in x.ravel():
        h = x_t + h**3 / 4
        expected.append(h)
    return lambda h: (x + h**3 / 4, 3 * h**2 / 4), jnp.full((1, 1), 0.5), np.array(expected).reshape(T, 1, 1)


def test_a_scalar_cell_converges_quadratically():
    """Its Jacobian is its diagonal, so that this is Newton's method."""
    step, h0, expected = cubic(200)
    cut = jnp.zeros((200, 1), bool)
    h, solved, iterations = solve(step, h0, cut, tolerance=1e-6, iterations=20)
    assert solved
    assert iterations <= 6
    assert_close(h, expected, 2e-6)


def test_the_residual_decides():
    step, h0, expected = cubic(50)
    cut = jnp.zeros((50, 1), bool)
    h, solved, iterations = solve(step, h0, cut, tolerance=1e-6, iterations=1)
    assert not solved
    assert iterations == 1
    assert np.abs(np.asarray(h) - expected).max() > 1e-3
    _, solved, _ = solve(lambda h: (h * jnp.nan, h), h0, cut, tolerance=1e-6, iterations=5)
    assert not solved  # NaN is no solution


@pytest.mark.parametrize(
    ("options", "says"),
    [({"iterations": 0}, "iterations is 0, expected at least 1"), ({"tolerance": 0.0}, "tolerance is 0.0, expected")],
)
def test_bad_options(options, says):
    with pytest.raises(MemrlError, match=says):
        NewtonOptions(**options)
