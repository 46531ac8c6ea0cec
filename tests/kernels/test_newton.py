"""Recurrences parallel in time: equal to the loop where the iteration converges, and else the loop itself."""

import functools
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_gru_scan
from cell_checks import CellChecks, quick_jit
from cores.numeric import assert_close, normal

from memrl import MemrlError
from memrl.kernels import NewtonOptions, gru_scan
from memrl.kernels.newton import solve


@functools.wraps(gru_scan)
def gru_by_newton(*args: Any, backend: str = "auto", **kwargs: Any) -> Any:
    return gru_scan(*args, **kwargs, backend="newton" if backend in ("auto", "xla") else backend)


class TestGRUByNewton(CellChecks):
    scan = gru_by_newton
    num_gates, num_states = 3, 1
    cell = staticmethod(test_gru_scan.TestGRU.cell)


def gru_problem(T: int, B: int, N: int, scale: float) -> Any:
    rng = np.random.default_rng(0)
    gates, kernel = normal(rng, (T, B, 3 * N)), np.float32(scale / np.sqrt(N)) * normal(rng, (N, 3 * N))
    return *map(jnp.asarray, (gates, kernel, normal(rng, (B, N)))), rng.random((T, B)) < 0.02


def gradients(backend: str, options: NewtonOptions, arguments: Any) -> Any:
    def loss(gates, kernel, h0, reset):
        h, last = gru_scan(gates, kernel, h0, reset, backend=backend, newton=options)
        return jnp.sum(jnp.sin(3 * h)) + jnp.sum(last), h

    return quick_jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(*arguments)


@pytest.mark.parametrize(("scale", "iterations"), [(0.5, 24), (1.0, 60)])
def test_long_sequences_need_few_iterations(scale, iterations, monkeypatch):
    monkeypatch.setattr("jax.lax.cond", lambda solved, newton, one_by_one: newton())  # no falling back
    arguments = gru_problem(400, 2, 8, scale)
    (_, expected), expected_gradients = gradients("reference", NewtonOptions(), arguments)
    (_, h), actual = gradients("newton", NewtonOptions(iterations), arguments)
    assert_close(h, expected, 1e-5)
    assert_close(actual, expected_gradients, 1e-4)


@pytest.mark.parametrize("scale", [0.5, 4.0])
def test_what_does_not_converge_is_computed_step_by_step(scale):
    arguments = gru_problem(40, 2, 8, scale)
    (_, expected), expected_gradients = gradients("reference", NewtonOptions(), arguments)
    (_, h), actual = gradients("newton", NewtonOptions(iterations=2), arguments)
    assert_close(h, expected, 1e-6)
    assert_close(actual, expected_gradients, 1e-5)


def test_the_diagonal_is_that_of_the_jacobian():
    """A wrong one converges too, later."""
    gates, kernel, h0, _ = gru_problem(1, 1, 5, 1.0)
    module = sys.modules["memrl.kernels.gru"]
    jacobian = jax.jacobian(lambda h: gru_scan(gates, kernel, h, backend="reference")[1])(h0)[0, :, 0, :]
    saved = module._cell(gates, kernel, h0[None])[1:]
    diagonal = module._jacobian_diagonal(module._diagonals(kernel, jnp.float32), h0[None], *saved)
    assert_close(diagonal[0, 0], np.diagonal(jacobian), 1e-6)


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
