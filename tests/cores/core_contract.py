"""The contract of memory cores, as tests: a class inherits `CoreContract` and supplies the cases."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cores.core_references import Reference
from cores.numeric import assert_close, assert_finite, exact, normal, weighted_sum
from flax import nnx
from jax import lax
from jaxprs import equations
from quick import quick_jit

from memrl.cores import MemoryCore

T, B, D = 12, 3, 8
PIECES = (1, 11)  # each length is a program of its own
ROUNDING = 2e-5  # float32: two orders of the same sums over T steps and D terms
EXACT = 1e-6  # the same program on data that differ only where it must not matter
BFLOAT16 = 0.03  # a few roundings of 2^-9 relative to the largest output, through gates with slopes up to 1
LONG = 100_000


def reset_patterns() -> dict[str, np.ndarray]:
    none = np.zeros((T, B), bool)
    mixed = none.copy()
    mixed[0, 0] = mixed[7, 0] = True  # at the start, and once more
    mixed[4:7, 1] = mixed[-1, 1] = True  # in a row, and at the end; the third row never
    return {
        "none": none,
        "every": np.ones((T, B), bool),
        "mixed": mixed,
        "random": np.random.default_rng(0).random((T, B)) < 0.3,
    }


PATTERNS = reset_patterns()
every_pattern = pytest.mark.parametrize("resets", PATTERNS.values(), ids=PATTERNS.keys())


class Run(NamedTuple):
    """What a program gives for a loss that sums its outputs and last state with random weights."""

    ys: Any
    state: Any
    gradients: "Gradients"


class Gradients(NamedTuple):
    params: Any
    state: Any  # of the inexact leaves of the starting state
    xs: Any


def by_unroll(core: MemoryCore, state, xs, resets):
    return core.unroll(state, xs, resets)


def by_step(core: MemoryCore, state, xs, resets):
    return lax.scan(lambda state, now: core.step(state, *now), state, (xs, resets))


def by_pieces(core: MemoryCore, state, xs, resets):
    ys = []
    for end, size in zip(np.cumsum(PIECES), PIECES, strict=True):
        state, y = core.unroll(state, xs[end - size : end], resets[end - size : end])
        ys.append(y)
    return state, jnp.concatenate(ys)


class Case:
    """One core, its programs compiled once, and data to run them on."""

    def __init__(
        self,
        make: Callable[[nnx.Rngs], MemoryCore],
        *,
        name: str = "",
        config: Any = None,
        period: int = 1,
    ):
        self.make, self.name, self.config, self.period = make, name, config, period
        self.core = make(nnx.Rngs(1))
        self.graphdef, self.params, self.rest = nnx.split(self.core, nnx.Param, ...)
        rng = np.random.default_rng(0)
        self.xs, self.other_xs = normal(rng, (T, B, D)), normal(rng, (T, B, D))
        initial = self.core.initial_state(B)
        self.weights = [normal(rng, (T, B, D))]
        self.weights += [normal(rng, x.shape, "complex") for x in inexact_leaves(initial)]
        self.initial = initial
        # Not the initial state, and from inputs of its own: a maximum over the past would tie with the same ones again.
        self.state = self.run(initial, normal(rng, (T, B, D)), PATTERNS["none"]).state
        # Where the position matters, the other state must be at the same one.
        before = self.state if period == 1 else initial
        self.other_state = self.run(before, self.other_xs, PATTERNS["none"]).state

    def run(self, state, xs, resets, *, weights=None, program=by_unroll, params=None) -> Run:
        weights = self.weights if weights is None else weights
        return self.program(program)(self.params if params is None else params, state, xs, resets, weights)

    def output_weights(self, times: Any = slice(None), rows: Any = slice(None)) -> list[np.ndarray]:
        """Weights that look at the outputs of some steps and rows, and not at the last state."""
        weights = [np.zeros_like(w) for w in self.weights]
        weights[0][times, rows] = self.weights[0][times, rows]
        return weights

    @functools.cache  # noqa: B019
    def program(self, run: Callable[..., Any]) -> Callable[..., Run]:
        @quick_jit
        def program(params, state, xs, resets, weights):
            def loss(params, leaves, xs):
                core = nnx.merge(self.graphdef, params, self.rest)
                last, ys = run(core, with_inexact_leaves(state, leaves), xs, resets)
                return weighted_sum(jnp, [ys, *inexact_leaves(last)], weights), (ys, last)

            (_, (ys, last)), gradients = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(
                params, inexact_leaves(state), xs
            )
            return Run(ys, last, Gradients(*gradients))

        return program

    @functools.cached_property
    def traces(self) -> list[Any]:
        """The dtype and length of every sequence that `forward` was traced for."""
        return []

    @functools.cached_property
    def forward(self) -> Callable[..., Any]:
        """`unroll` alone: (params, state, xs, resets) to (state, ys)."""

        @quick_jit
        def forward(params, state, xs, resets):
            self.traces.append((xs.dtype, len(xs)))
            return nnx.merge(self.graphdef, params, self.rest).unroll(state, xs, resets)

        return forward


def is_inexact(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.inexact)


def inexact_leaves(tree: Any) -> list[Any]:
    return [x for x in jax.tree.leaves(tree) if is_inexact(x)]


def with_inexact_leaves(tree: Any, leaves: list[Any]) -> Any:
    """`tree` with its inexact leaves replaced; counters stay."""
    remaining = iter(leaves)
    return jax.tree.map(lambda x: next(remaining) if is_inexact(x) else x, tree)


def filled(state: Any, value: float) -> Any:
    return jax.tree.map(lambda x: jnp.full_like(x, value) if is_inexact(x) else x, state)


def shapes(tree: Any) -> Any:
    return jax.tree.map(lambda x: (x.shape, x.dtype, getattr(x, "weak_type", False)), tree)


def assert_zero(tree: Any) -> None:
    for path, leaf in jax.tree.leaves_with_path(tree):
        assert (np.asarray(leaf) == 0).all(), f"{jax.tree_util.keystr(path)} is not zero"


def episodes(resets: np.ndarray) -> list[tuple[int, int, bool]]:
    """Of one row [T]: first step, end, and whether the episode starts with a reset."""
    starts = sorted({0, *np.flatnonzero(resets).tolist()})
    return [(a, b, bool(resets[a])) for a, b in zip(starts, [*starts[1:], len(resets)], strict=True)]


class CoreContract:
    """The seven points; a subclass supplies the fixture `case`, and `long_case` for the slowest test."""

    @pytest.fixture
    def some_case(self, case: Case) -> Case:
        """A subclass may supply fewer cases for what depends more on how a core computes than on what."""
        return case

    # 0. What the types promise.

    def test_state_leads_with_the_batch_and_keeps_its_types(self, case: Case):
        # A scan or a compiled step rejects a state that changes its dtype, or is weakly typed at the start.
        expected = shapes(jax.eval_shape(lambda: case.core.initial_state(B)))
        assert all(shape[0] == B for shape, _, _ in jax.tree.leaves(expected, is_leaf=is_shape))
        assert not any(weak for _, _, weak in jax.tree.leaves(expected, is_leaf=is_shape))
        for dtype in (jnp.float32, jnp.bfloat16):
            x, reset = jnp.zeros((T, B, D), dtype), jnp.zeros((T, B), bool)
            state, ys = jax.eval_shape(case.core.unroll, case.initial, x, reset)
            assert (shapes(state), ys.shape, ys.dtype) == (expected, (T, B, D), dtype)
            state, y = jax.eval_shape(case.core.step, case.initial, x[0], reset[0])
            assert (shapes(state), y.shape, y.dtype) == (expected, (B, D), dtype)

    def test_it_says_whether_it_is_parallel_in_time(self, case: Case):
        assert case.core.parallel in (True, False)

    def test_the_seed_makes_the_parameters(self, case: Case):
        assert_close(nnx.state(case.make(nnx.Rngs(1))), nnx.state(case.core), 0)
        other = nnx.state(case.make(nnx.Rngs(2)), nnx.Param)
        same = jax.tree.map(lambda x, y: bool((x == y).all()), other, case.params)
        assert not all(jax.tree.leaves(same))

    def test_vmap_over_seeds(self, some_case: Case):
        case = some_case
        params = [nnx.state(case.make(nnx.Rngs(seed)), nnx.Param) for seed in (1, 2)]
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *params)
        data = (case.state, case.xs, PATTERNS["mixed"])
        together = jax.vmap(case.forward, in_axes=(0, None, None, None))(stacked, *data)
        for seed in (0, 1):
            one = jax.tree.map(lambda x, seed=seed: x[seed], together)
            assert_close(one, case.forward(params[seed], *data), ROUNDING)

    def test_new_parameters_of_seeds_side_by_side(self, some_case: Case):
        case = some_case

        def new_parameters(key):
            return nnx.state(case.make(nnx.Rngs(key)), nnx.Param)

        keys = jax.random.split(jax.random.key(0), 2)
        together = quick_jit(jax.vmap(new_parameters))(keys)
        for i, key in enumerate(keys):
            one = jax.tree.map(lambda x, i=i: x[i], together)
            assert_close(one, new_parameters(key), ROUNDING)
        # Batched factorisations can hang on the CPU: see `memrl.cores.base.orthogonal`.
        jaxpr = jax.make_jaxpr(jax.vmap(new_parameters))(keys).jaxpr
        assert all(e.outvars[0].aval.ndim == 2 for e in equations(jaxpr) if e.primitive.name == "qr")

    # 1. One function, however the sequence is cut.

    @every_pattern
    @pytest.mark.parametrize("program", [by_step, by_pieces])
    def test_unroll_equals_steps_and_pieces(self, case: Case, program, resets):
        whole = case.run(case.state, case.xs, resets)
        assert_close(case.run(case.state, case.xs, resets, program=program), whole, ROUNDING)

    # 2. Episodes do not meet.

    @every_pattern
    def test_packed_sequence_equals_its_episodes(self, some_case: Case, resets):
        case = some_case
        weights = case.output_weights()
        packed = case.run(case.state, case.xs, resets, weights=weights)
        params = jax.tree.map(np.zeros_like, packed.gradients.params)
        for row in range(B):
            for start, end, fresh in episodes(resets[:, row]):
                alone = self._run_alone(case, row, start, end, fresh)
                phase, length = start % case.period, end - start
                here = slice(phase, phase + length)
                assert_close(alone.ys[here, row], packed.ys[start:end, row], ROUNDING)
                assert_close(alone.gradients.xs[here, row], packed.gradients.xs[start:end, row], ROUNDING)
                params = jax.tree.map(np.add, params, alone.gradients.params)
                if not fresh:
                    of_row, packed_row = ([g[row] for g in run.gradients.state] for run in (alone, packed))
                    assert_close(of_row, packed_row, ROUNDING)
        assert_close(packed.gradients.params, params, ROUNDING)
        assert_zero([g[resets[0]] for g in packed.gradients.state])

    def _run_alone(self, case: Case, row: int, start: int, end: int, fresh: bool) -> Run:
        """One episode at the start of a sequence (at its phase, if the core has one), others after it."""
        phase, length = start % case.period, end - start
        xs, resets = case.other_xs.copy(), PATTERNS["none"].copy()
        xs[phase : phase + length, row] = case.xs[start:end, row]
        # A function of the position has its position from the state; else the initial state alone must do at phase 0.
        state = case.initial if fresh and case.period == 1 else case.state
        resets[phase] = fresh and (phase > 0 or case.period > 1)
        weights = case.output_weights()
        weights[0] *= 0
        weights[0][phase : phase + length, row] = case.weights[0][start:end, row]
        return case.run(state, xs, resets, weights=weights)

    def test_nothing_flows_over_a_reset(self, case: Case):
        cut = 5
        resets = PATTERNS["none"].copy()
        resets[cut] = True
        weights = case.output_weights(slice(cut, None))
        run = case.run(case.state, case.xs, resets, weights=weights)
        assert_zero((run.gradients.state, run.gradients.xs[:cut]))
        xs = np.concatenate([case.other_xs[:cut], case.xs[cut:]])
        other = case.run(case.other_state, xs, resets, weights=weights)
        assert_close(other.ys[cut:], run.ys[cut:], EXACT)
        assert_close(other.gradients.params, run.gradients.params, ROUNDING)
        assert_close(other.gradients.xs[cut:], run.gradients.xs[cut:], ROUNDING)

    # 3. Time runs forwards, and rows are strangers.

    @pytest.mark.parametrize("now", [0, 4, T - 2])
    def test_causality(self, case: Case, now):
        future = slice(now + 1, None)
        xs, resets = case.xs.copy(), PATTERNS["mixed"].copy()
        run = case.run(case.state, xs, resets, weights=case.output_weights(now))
        assert_zero(run.gradients.xs[future])
        xs[future], resets[future] = case.other_xs[future], ~resets[future]
        assert_close(case.run(case.state, xs, resets).ys[: now + 1], run.ys[: now + 1], EXACT)

    def test_rows_are_independent(self, case: Case):
        resets = PATTERNS["mixed"]
        run = case.run(case.state, case.xs, resets, weights=case.output_weights(rows=0))
        others = slice(1, None)
        assert_zero((run.gradients.xs[:, others], [g[others] for g in run.gradients.state]))
        xs = case.xs.copy()
        xs[:, others] = np.nan
        nan_state = jax.tree.map(
            lambda x: x.at[others].set(np.nan) if is_inexact(x) else x,
            case.state,
        )
        assert_close(case.run(nan_state, xs, resets).ys[:, 0], run.ys[:, 0], EXACT)

    # 4. NaN and infinity end with the episode.

    @pytest.mark.parametrize("poison", [np.nan, np.inf])
    def test_a_reset_heals_a_poisoned_state(self, case: Case, poison):
        resets = PATTERNS["mixed"].copy()
        resets[0] = True
        weights = case.output_weights()
        clean = case.run(case.state, case.xs, resets, weights=weights)
        healed = case.run(filled(case.state, poison), case.xs, resets, weights=weights)
        assert_finite((healed.ys, healed.gradients))
        assert_close((healed.ys, healed.gradients), (clean.ys, clean.gradients), EXACT)
        assert_zero(healed.gradients.state)

    @pytest.mark.parametrize("program", [by_unroll, by_step])
    def test_a_reset_heals_a_poisoned_past(self, case: Case, program):
        cut = 5
        resets = PATTERNS["none"].copy()
        resets[cut] = True
        xs = case.xs.copy()
        xs[:cut] = np.nan
        clean = case.run(case.state, case.xs, resets, program=program)
        healed = case.run(filled(case.state, np.nan), xs, resets, program=program)
        assert_close(healed.ys[cut:], clean.ys[cut:], EXACT)

    # 5. The paper's equations: see test_contract.py; a core made of cores has none of its own.

    # 6. Mixed precision, and one compilation per shape.

    def test_bfloat16_inputs(self, some_case: Case):
        case = some_case
        xs = jnp.asarray(case.xs, jnp.bfloat16)
        state, ys = case.forward(case.params, case.state, xs, PATTERNS["mixed"])
        assert ys.dtype == jnp.bfloat16
        expected = case.forward(case.params, case.state, xs.astype(jnp.float32), PATTERNS["mixed"])
        assert_close((state, ys), expected, BFLOAT16)

    def test_same_shapes_compile_once(self, some_case: Case):
        case = some_case
        case.traces.clear()
        case.forward.clear_cache()  # pyright: ignore[reportFunctionMemberAccess]
        state = case.initial
        for resets in PATTERNS.values():
            for dtype in (jnp.float32, jnp.bfloat16):  # the state that either leaves fits the other
                state, _ = case.forward(case.params, state, jnp.asarray(case.xs, dtype), resets)
        assert len(case.traces) == 2

    # 7. Episodes that never end.

    @pytest.mark.slow
    def test_long_episodes_stay_finite(self, long_case: Case):
        case = long_case

        @jax.jit
        def live(params, state, xs):
            core = nnx.merge(case.graphdef, params, case.rest)

            def step(carry, t):
                state, finite = carry
                state, y = core.step(state, xs[t % T], jnp.zeros(1, bool))
                return (state, finite & jnp.isfinite(y).all()), None

            return lax.scan(step, (state, True), jnp.arange(LONG))[0]

        xs = 1 + case.xs[:, :1]  # a mean that is not zero: an integrator would drift
        state, finite = live(case.params, case.core.initial_state(1), xs)
        assert finite
        assert_finite(inexact_leaves(state))


def is_shape(x: Any) -> bool:
    return isinstance(x, tuple) and len(x) == 3 and isinstance(x[2], bool)


def assert_equals_reference(case: Case, reference: Reference, resets: np.ndarray) -> None:
    """In outputs, last state, and the gradients of parameters, starting state and inputs."""
    run = case.run(case.state, case.xs, resets)
    tree = exact((nnx.to_pure_dict(case.params), case.state, case.xs))

    def evaluate(tree):
        params, state, xs = tree
        return reference(case.config, params, state, xs, resets)

    def loss(tree):
        ys, state = evaluate(tree)
        return weighted_sum(np, [ys, *inexact_leaves(state)], case.weights)

    assert_close((run.ys, run.state), evaluate(tree), ROUNDING)
    state_gradients = with_inexact_leaves(case.state, list(run.gradients.state))
    gradients = (nnx.to_pure_dict(run.gradients.params), state_gradients, run.gradients.xs)
    assert_gradient(loss, tree, gradients, directions=4 if resets is PATTERNS["mixed"] else 1)


def assert_gradient(loss: Callable[[Any], float], tree: Any, gradients: Any, directions: int) -> None:
    """The gradient's slope along random unit directions, leaf by leaf, is that of central differences."""
    rng, epsilon = np.random.default_rng(0), 1e-5
    leaves, structure = jax.tree.flatten(tree)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(tree)]
    for i, (path, gradient) in enumerate(zip(paths, jax.tree.leaves(gradients), strict=True)):
        if not is_inexact(leaves[i]):
            continue
        gradient = np.asarray(gradient)
        for _ in range(directions):
            direction = normal(rng, gradient.shape, "complex" if np.iscomplexobj(gradient) else "real")
            direction = direction / np.linalg.norm(direction)

            def at(amount, i=i, direction=direction):
                moved = [*leaves[:i], leaves[i] + amount * direction, *leaves[i + 1 :]]
                return loss(jax.tree.unflatten(structure, moved))

            slope = (at(epsilon) - at(-epsilon)) / (2 * epsilon)
            expected = np.sum(gradient * direction).real
            scale = max(1e-3, float(np.linalg.norm(gradient)))
            np.testing.assert_allclose(expected, slope, rtol=0, atol=ROUNDING * scale, err_msg=path)
