"""Every recurrent cell: its scan against a loop in NumPy and the finite differences of that loop."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cores.numeric import assert_close, assert_finite, exact, finite_differences, normal, weighted_sum
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from quick import precise_jit

from memrl import MemrlError

T, B, N = 6, 2, 3
FLOAT32 = 3e-6  # T roundings of 6e-8, through sums of 2N terms

every_backend = pytest.mark.parametrize("backend", ["reference", "xla", "newton", "interpret"])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def mixed_resets(steps=T, batch=B):
    """At t = 0 in one row, twice in a row in the other."""
    reset = np.zeros((steps, batch), bool)
    reset[0, 0] = reset[2:4, -1] = reset[-1:, 0] = True
    return reset


NONE, ALL = np.zeros((T, B), bool), np.ones((T, B), bool)


class CellChecks:
    """A test class names the scan, its sizes, and one step of the cell."""

    scan: ClassVar[Callable[..., Any]]
    num_gates: ClassVar[int]
    num_states: ClassVar[int]

    @staticmethod
    def cell(gates_t: np.ndarray, kernel: np.ndarray, *states: np.ndarray) -> Sequence[np.ndarray]:
        """The next states, the output first."""
        raise NotImplementedError

    def naive(self, gates, kernel, *states, reset):
        hs = []
        for gates_t, reset_t in zip(gates, reset, strict=True):
            states = self.cell(gates_t, kernel, *(np.where(reset_t[:, None], 0, s) for s in states))
            hs.append(states[0])
        return np.array(hs).reshape(*gates.shape[:2], kernel.shape[0]), *states

    @functools.cached_property
    def run(self):
        """Outputs (h, *last states) and the gradients of gates, kernel and starting states."""
        return _runner(type(self).scan)

    def problem(self, seed=0, steps=T, batch=B):
        """The scan's arguments, and the weights of its outputs in the loss."""
        rng = np.random.default_rng(seed)
        gates = normal(rng, (steps, batch, self.num_gates * N))
        kernel = normal(rng, (N, self.num_gates * N))
        shapes = [(steps, batch, N)] + self.num_states * [(batch, N)]
        states = [normal(rng, shape) for shape in shapes[1:]]
        return (gates, kernel, *states), tuple(normal(rng, shape) for shape in shapes)

    def expected(self, arguments, weights, reset):
        def loss(*arguments):
            return weighted_sum(np, self.naive(*arguments, reset=reset), weights)

        return self.naive(*exact(arguments), reset=reset), tuple(finite_differences(loss, arguments))

    def check(self, backend, arguments, weights, reset):
        actual = self.run(arguments, weights, reset, backend=backend)
        assert_close(actual, self.expected(arguments, weights, reset), FLOAT32)

    @every_backend
    @pytest.mark.parametrize("reset", [mixed_resets(), NONE, ALL], ids=["mixed", "none", "all"])
    def test_equals_the_loop_in_values_and_gradients(self, backend, reset):
        self.check(backend, *self.problem(), reset)

    @every_backend
    @settings(max_examples=10, deadline=None)
    @given(reset=npst.arrays(bool, (T, B)), seed=st.integers(0, 99))
    def test_equals_the_loop_for_any_resets(self, backend, reset, seed):
        self.check(backend, *self.problem(seed), reset)

    @every_backend
    @pytest.mark.parametrize(("steps", "batch"), [(0, 2), (1, 2), (1, 1), (5, 1)])
    def test_sizes_at_the_edge(self, backend, steps, batch):
        reset = mixed_resets(5, batch)[:steps]
        self.check(backend, *self.problem(steps=steps, batch=batch), reset)

    @every_backend
    def test_no_resets_is_the_default(self, backend):
        arguments, _ = self.problem()
        h, last = precise_jit(functools.partial(type(self).scan, backend=backend))(*arguments)
        assert_close((h, *jax.tree.leaves(last)), self.naive(*arguments, reset=NONE), FLOAT32)

    @every_backend
    @pytest.mark.parametrize("poison", [np.nan, np.inf])
    def test_no_state_before_a_reset_leaks(self, backend, poison):
        (gates, kernel, *states), weights = self.problem()
        reset = mixed_resets()
        reset[0] = True
        clean = self.run((gates, kernel, *states), weights, reset, backend=backend)
        poisoned = [np.full_like(s, poison) for s in states]
        actual = self.run((gates, kernel, *poisoned), weights, reset, backend=backend)
        assert_finite(actual)
        assert_close(actual, clean, 1e-7)
        assert all((np.asarray(g) == 0).all() for g in actual[1][2:])  # of the starting states

    @every_backend
    def test_no_input_before_a_reset_leaks(self, backend):
        (gates, *rest), weights = self.problem()
        reset = NONE.copy()
        reset[3] = True
        (clean, *last_clean), _ = self.run((gates, *rest), weights, reset, backend=backend)
        gates = np.concatenate([np.full_like(gates[:3], np.nan), gates[3:]])
        (h, *last), _ = self.run((gates, *rest), weights, reset, backend=backend)
        assert_close((h[3:], last), (clean[3:], last_clean), 1e-7)

    @every_backend
    def test_bfloat16_gates_keep_a_float32_state(self, backend):
        (gates, *rest), weights = self.problem()
        gates = jnp.asarray(gates, jnp.bfloat16)
        values, gradients = self.run((gates, *rest), weights, mixed_resets(), backend=backend)
        assert all(x.dtype == jnp.float32 for x in (*values, *gradients[1:]))
        assert gradients[0].dtype == jnp.bfloat16
        rounded = np.asarray(gates, np.float64)
        expected, expected_gradients = self.expected((rounded, *rest), weights, mixed_resets())
        assert_close((values, gradients[1:]), (expected, expected_gradients[1:]), FLOAT32)  # nothing is rounded
        assert_close(gradients[0], expected_gradients[0], 2**-8)  # only the result is rounded

    @every_backend
    def test_bfloat16_kernel(self, backend):
        (gates, kernel, *states), weights = self.problem()
        kernel = jnp.asarray(kernel, jnp.bfloat16)
        values, gradients = self.run((gates, kernel, *states), weights, mixed_resets(), backend=backend)
        assert gradients[1].dtype == jnp.bfloat16
        rounded = np.asarray(kernel, np.float64)
        expected = self.expected((gates, rounded, *states), weights, mixed_resets())
        assert_close((values, gradients), expected, 2**-6)  # h is rounded at every step of the product

    @every_backend
    def test_vmap_equals_a_loop(self, backend):
        problems = [(self.problem(seed), np.roll(mixed_resets(), seed, 0)) for seed in range(3)]
        run = functools.partial(self.run, backend=backend)
        together = jax.vmap(run)(*jax.tree.map(lambda *xs: np.stack(xs), *[(*p, reset) for p, reset in problems]))
        for i, (p, reset) in enumerate(problems):
            assert_close(jax.tree.map(lambda x, i=i: x[i], together), run(*p, reset), FLOAT32)

    @pytest.mark.parametrize("platform", ["cuda", "tpu"])
    @pytest.mark.parametrize("backend", ["xla", "newton"])
    def test_lowers_for_other_platforms(self, backend, platform):
        arguments, weights = self.problem()
        traced = self.run.trace(arguments, weights, mixed_resets(), backend=backend)
        assert "stablehlo.while" in traced.lower(lowering_platforms=(platform,)).as_text()

    @pytest.mark.parametrize(
        ("argument", "value", "says"),
        [
            ("gates", np.zeros((T, B, N), np.float32), "gates has shape (6, 2, 3)"),
            ("kernel", np.zeros((N, N), np.float32), "kernel has shape (3, 3)"),
            ("h0", np.zeros((N,), np.float32), "h0 has shape (3,)"),
            ("reset", np.zeros((B, T), bool), "reset is bool(2, 6)"),
            ("reset", np.zeros((T, B), np.float32), "reset is float32(6, 2)"),
            ("backend", "xal", "did you mean 'xla'?"),
        ],
        ids=str,
    )
    def test_errors_are_one_line_and_name_the_argument(self, argument, value, says):
        arguments, _ = self.problem()
        named = dict(zip(["gates", "kernel", "h0", "c0"], arguments, strict=False)) | {"reset": mixed_resets()}
        with pytest.raises(MemrlError) as error:
            type(self).scan(**(named | {argument: value}))
        message = str(error.value)
        assert says in message
        assert type(self).scan.__name__ in message
        assert "\n" not in message


@functools.cache
def _runner(scan):
    @functools.partial(precise_jit, static_argnames="backend")
    def run(arguments, weights, reset, *, backend):
        def loss(arguments):
            h, last = scan(*arguments, reset, backend=backend)
            outputs = (h, *jax.tree.leaves(last))
            return weighted_sum(jnp, outputs, weights), outputs

        (_, outputs), gradients = jax.value_and_grad(loss, has_aux=True)(arguments)
        return outputs, gradients

    return run
