"""Every chunked kernel against a loop in NumPy and the finite differences of that loop."""

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cell_checks import mixed_resets
from cores.numeric import assert_close, assert_finite, exact, finite_differences, normal, weighted_sum
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from quick import precise_jit

from memrl import MemrlError

T, B, H, K, V = 7, 2, 1, 3, 2
FLOAT32 = 1e-5  # products of matrices, and in the delta rule the inverse of one: tens of roundings of 6e-8
NONE, ALL = np.zeros((T, B), bool), np.ones((T, B), bool)


class ChunkedChecks:
    """A test class names the kernel and its back ends, makes its arguments, and says what it computes."""

    kernel: ClassVar[Callable[..., Any]]
    backends: ClassVar[tuple[str, ...]] = ("reference", "xla")

    def sequences(self, rng, steps: int, batch: int, sizes: tuple[int, int, int]) -> dict[str, np.ndarray]:
        """q, k, v and the rest by name, [T, B, H, ...]."""
        raise NotImplementedError

    def step(self, s: np.ndarray, t: int, sequences: dict[str, np.ndarray]) -> np.ndarray:
        """The state [B, H, K, V] after step t."""
        raise NotImplementedError

    def naive(self, sequences, s, reset):
        outputs = np.zeros((*sequences["q"].shape[:3], s.shape[-1]))
        for t in range(len(reset)):
            s = self.step(np.where(reset[t][:, None, None, None], 0, s), t, sequences)
            outputs[t] = np.einsum("bhkv,bhk->bhv", s, sequences["q"][t])
        return outputs, s

    @functools.cached_property
    def run(self):
        """Outputs and the gradients of all sequences and of the state."""
        return _runner(self.kernel)

    def problem(self, seed=0, steps=T, batch=B, sizes=(H, K, V)) -> Any:
        """Sequences, s0 and the weights of the outputs in the loss."""
        rng = np.random.default_rng(seed)
        sequences = self.sequences(rng, steps, batch, sizes)
        s0 = normal(rng, (batch, *sizes))
        return sequences, s0, (normal(rng, (steps, batch, sizes[0], sizes[2])), normal(rng, s0.shape))

    def expected(self, sequences, s0, weights, reset):
        names = list(sequences)

        def loss(*values):
            return weighted_sum(np, self.naive(dict(zip(names, values, strict=False)), values[-1], reset), weights)

        *gradients, ds0 = finite_differences(loss, [*sequences.values(), s0])
        values = self.naive(exact(sequences), exact(s0), reset)
        return values, (dict(zip(names, gradients, strict=True)), ds0)

    def check(self, backend, problem, reset, chunk_size=4):
        sequences, s0, weights = problem
        values, gradients = self.run(sequences, s0, weights, reset, backend=backend, chunk_size=chunk_size)
        expected, expected_gradients = self.expected(sequences, s0, weights, reset)
        assert_close(values, expected, FLOAT32)
        # A decay's gradient is a sum over the state that may cancel: all are measured by the largest of them.
        largest = max(1e-3, *(np.abs(x).max(initial=0) for x in jax.tree.leaves(expected_gradients)))
        for name, actual, gradient in zip(
            [*sorted(sequences), "s0"], jax.tree.leaves(gradients), jax.tree.leaves(expected_gradients), strict=True
        ):
            np.testing.assert_allclose(actual, gradient, rtol=0, atol=FLOAT32 * largest, err_msg=name)

    @pytest.mark.parametrize("reset", [mixed_resets(T, B), NONE, ALL], ids=["mixed", "none", "all"])
    def test_equals_the_loop_in_values_and_gradients(self, backend, reset):
        for chunk_size in (1, 3, 64) if backend == "xla" else (4,):
            self.check(backend, self.problem(), reset, chunk_size)

    # pytest makes an object of the class for each back end
    @settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
    @given(reset=npst.arrays(bool, (T, B)), seed=st.integers(0, 99))
    def test_equals_the_loop_for_any_resets(self, backend, reset, seed):
        self.check(backend, self.problem(seed), reset)

    @pytest.mark.parametrize(("steps", "batch"), [(0, 2), (1, 2), (1, 1), (5, 1)])
    def test_sizes_at_the_edge(self, backend, steps, batch):
        self.check(backend, self.problem(steps=steps, batch=batch), mixed_resets(5, batch)[:steps])

    @pytest.mark.parametrize("chunk_size", [16, 32, 48, 64])
    def test_long_sequences_in_large_chunks(self, chunk_size):
        """Blocks of blocks, and a tail, against the reference, which the other tests hold to the loop.

        The tolerance is for the gradients, through up to 150 steps.
        """
        sequences, s0, weights = self.problem(steps=150, sizes=(2, 8, 4))
        reset = np.random.default_rng(0).random((150, B)) < 0.05
        arguments = sequences, s0, weights, reset
        expected = self.run(*arguments, backend="reference", chunk_size=64)
        assert_close(self.run(*arguments, backend="xla", chunk_size=chunk_size), expected, 1e-4)

    def test_zero_state_and_no_reset_are_the_default(self, backend):
        sequences, s0, _ = self.problem()
        run = precise_jit(functools.partial(self.kernel, backend=backend))
        assert_close(run(**sequences), self.naive(sequences, 0 * s0, NONE), FLOAT32)

    @pytest.mark.parametrize("poison", [np.nan, np.inf])
    def test_nothing_before_a_reset_leaks(self, backend, poison):
        sequences, s0, weights = self.problem()
        reset = NONE.copy()
        reset[[0, 3]] = True  # in one chunk of 8
        weights[0][2] = 0  # the loss looks only at what is clean
        run = functools.partial(self.run, backend=backend, chunk_size=8)
        clean = run(sequences, s0, weights, reset)
        for name in sequences:
            bad = {n: x.copy() for n, x in sequences.items()}
            self.at_step(bad[name], name, 2)[...] = poison
            (o, s_last), gradients = run(bad, np.full_like(s0, poison), weights, reset)
            outside = np.arange(T) != 2
            assert_finite((o[outside], s_last))
            assert_close((o[outside], s_last), (clean[0][0][outside], clean[0][1]), 1e-6)
            assert_close(self.after(gradients[0], 3), self.after(clean[1][0], 3), 1e-6)
            assert not np.asarray(gradients[1]).any()

    def test_nothing_before_a_reset_has_a_gradient(self, backend):
        sequences, s0, weights = self.problem()
        reset = NONE.copy()
        reset[[3, 5]] = True  # in one chunk of 8
        weights[0][:3] = 0
        _, gradients = self.run(sequences, s0, weights, reset, backend=backend, chunk_size=8)
        for name in sequences:
            for t in range(3):
                assert not np.asarray(self.at_step(gradients[0][name], name, t)).any(), name
        assert not np.asarray(gradients[1]).any()

    def test_what_is_not_finite_stays_visible_until_a_reset(self, backend):
        sequences, s0, weights = self.problem()
        reset = NONE.copy()
        reset[4] = True
        sequences["v"] = sequences["v"].copy()
        self.at_step(sequences["v"], "v", 1)[...] = np.nan
        (o, s_last), _ = self.run(sequences, s0, weights, reset, backend=backend, chunk_size=3)
        assert np.isnan(np.asarray(o[1:4])).all()
        assert_finite((o[0], o[4:], s_last))
        reset[4] = False
        (o, s_last), _ = self.run(sequences, s0, weights, reset, backend=backend, chunk_size=3)
        assert np.isnan(np.asarray(o[1:])).all()
        assert np.isnan(np.asarray(s_last)).all()

    def test_a_query_that_is_not_finite_reaches_its_own_step_alone(self, backend):
        sequences, s0, weights = self.problem()
        clean, _ = self.run(sequences, s0, weights, NONE, backend=backend, chunk_size=3)
        sequences["q"] = sequences["q"].copy()
        sequences["q"][1] = np.inf
        (o, s_last), _ = self.run(sequences, s0, weights, NONE, backend=backend, chunk_size=3)
        others = np.arange(T) != 1
        assert not np.isfinite(np.asarray(o[1])).any()
        assert_close((o[others], s_last), (clean[0][others], clean[1]), 1e-7)

    def test_a_state_that_is_not_finite_is_seen_until_a_reset(self, backend):
        sequences, s0, weights = self.problem()
        reset = NONE.copy()
        reset[4] = True
        (o, s_last), _ = self.run(sequences, np.full_like(s0, np.nan), weights, reset, backend=backend, chunk_size=3)
        assert np.isnan(np.asarray(o[:4])).all()
        assert_finite((o[4:], s_last))

    def test_bfloat16_inputs_keep_a_float32_state(self, backend):
        sequences, s0, weights = self.problem(steps=40)
        sequences = {name: jnp.asarray(x, jnp.bfloat16) for name, x in sequences.items()}
        reset = mixed_resets(40, B)
        (o, s_last), (gradients, ds0) = self.run(sequences, s0, weights, reset, backend=backend, chunk_size=16)
        assert {o.dtype, *(x.dtype for x in gradients.values())} == {jnp.dtype(jnp.bfloat16)}
        assert s_last.dtype == ds0.dtype == jnp.float32
        expected, last = self.naive(exact(sequences), exact(s0), reset)
        assert_close(s_last, last, FLOAT32)
        assert_close(o, expected, 2**-8)  # one rounding of the output

    def test_vmap_equals_a_loop(self, backend):
        problems = [(*self.problem(seed), np.roll(mixed_resets(T, B), seed, 0)) for seed in range(3)]
        run = functools.partial(self.run, backend=backend, chunk_size=4)
        together = jax.vmap(run)(*jax.tree.map(lambda *xs: np.stack(xs), *problems))
        for i, problem in enumerate(problems):
            assert_close(jax.tree.map(lambda x, i=i: x[i], together), run(*problem), FLOAT32)

    @pytest.mark.parametrize("platform", ["cuda", "tpu"])
    def test_lowers_for_other_platforms(self, platform):
        sequences, s0, weights = self.problem()
        traced = self.run.trace(sequences, s0, weights, NONE, backend="xla", chunk_size=4)
        assert "stablehlo.dot_general" in traced.lower(lowering_platforms=(platform,)).as_text()

    @pytest.mark.parametrize(
        ("argument", "value", "says"),
        [
            ("q", np.zeros((T, B, K), np.float32), "q has shape (7, 2, 3)"),
            ("q", np.zeros((T, B, H, K), np.int32), "q has dtype int32"),
            ("v", np.zeros((T, B, 2, V), np.float32), "v has shape (7, 2, 2, 2)"),
            ("log_decay", np.zeros((T, B, 5), np.float32), "log_decay has shape (7, 2, 5)"),
            ("log_decay", np.zeros((T, B, H), np.int32), "log_decay has"),
            ("s0", np.zeros((B, H, V, K), np.float32), "s0 has shape (2, 1, 2, 3)"),
            ("reset", np.zeros((B, T), bool), "reset is bool[2, 7]"),
            ("reset", np.zeros((T, B), np.float32), "reset is float32[7, 2]"),
            ("chunk_size", 0, "chunk_size is 0"),
            ("backend", "xal", "did you mean 'xla'?"),
            ("backend", "newton", "backend 'newton' is not built"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_errors_are_one_line_and_name_the_argument(self, argument, value, says):
        sequences, s0, _ = self.problem()
        with pytest.raises(MemrlError) as error:
            self.kernel(**(sequences | {"s0": s0, "reset": NONE} | {argument: value}))
        message = str(error.value)
        assert says in message
        assert self.kernel.__name__ in message
        assert "\n" not in message

    def at_step(self, x: np.ndarray, name: str, t: int) -> np.ndarray:
        """The values of one step, a view."""
        del name
        return x[t]

    def after(self, sequences: dict[str, Any], t: int) -> dict[str, Any]:
        """The steps from t on."""
        return {name: np.asarray(x)[t:] for name, x in sequences.items()}


@functools.cache
def _runner(kernel):
    @functools.partial(precise_jit, static_argnames=("backend", "chunk_size"))
    def run(sequences, s0, weights, reset, *, backend, chunk_size):
        def loss(arguments):
            sequences, s0 = arguments
            outputs = kernel(**sequences, s0=s0, reset=reset, backend=backend, chunk_size=chunk_size)
            return weighted_sum(jnp, outputs, weights), outputs

        (_, outputs), gradients = jax.value_and_grad(loss, has_aux=True)((sequences, s0))
        return outputs, gradients

    return run
