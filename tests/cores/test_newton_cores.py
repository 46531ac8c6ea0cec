"""GRU and LSTM unrolled by Newton's method: the sequential function, at lengths where the iteration stops early."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cores.core_contract import ROUNDING
from cores.numeric import assert_close, normal
from flax import nnx
from jaxprs import equations
from quick import quick_jit

from memrl import make_core
from memrl.kernels import NewtonOptions

T, B, D = 100, 2, 8
every_core = pytest.mark.parametrize("name", ["gru", "lstm"])


@every_core
def test_long_sequences_agree_in_values_and_gradients(name):
    assert NewtonOptions().iterations < T  # it stops because steps agree, not because all have been reached
    rng = np.random.default_rng(0)
    xs, weights, resets = normal(rng, (T, B, D)), normal(rng, (T, B, D)), rng.random((T, B)) < 0.02

    def run(scan):
        graphdef, params, rest = nnx.split(make_core(name, D, rngs=nnx.Rngs(0), scan=scan), nnx.Param, ...)

        def loss(params, xs):
            core = nnx.merge(graphdef, params, rest)
            state, ys = core.unroll(core.initial_state(B), xs, jnp.asarray(resets))
            return (weights * ys).sum(), (state, ys)

        return quick_jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, xs)

    ((_, values), gradients), ((_, expected), expected_gradients) = run("newton"), run("sequential")
    assert_close(values, expected, ROUNDING)
    assert_close(gradients, expected_gradients, ROUNDING)


@every_core
def test_one_step_does_not_iterate(name):
    core = make_core(name, D, rngs=nnx.Rngs(0), scan="newton")
    state, x, reset = core.initial_state(B), np.zeros((B, D), np.float32), np.zeros(B, bool)

    def primitives(f, *arguments):
        return {e.primitive.name for e in equations(jax.make_jaxpr(f)(*arguments).jaxpr)}

    assert "while" not in primitives(core.step, state, x, reset)
    assert "while" in primitives(core.unroll, state, x[None].repeat(2, 0), reset[None].repeat(2, 0))


@every_core
def test_it_is_parallel_where_it_is_asked_for(name):
    assert make_core(name, D, rngs=nnx.Rngs(0), scan="newton").parallel
    assert not make_core(name, D, rngs=nnx.Rngs(0)).parallel
