"""Memories that learn at test time: mistakes, rows at phases of their own, what is held, and what a step costs."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cores.numeric import assert_close, normal
from flax import nnx
from jaxprs import equations

from memrl import MemrlError, make_core
from memrl.cores.chunk_grid import chunks_needed, from_grid, to_grid

MISTAKES = [
    ("titans", {"width": 0}, "core titans: width is 0, expected more than 0"),
    ("titans", {"depth": 0}, "core titans: depth is 0, expected more than 0"),
    ("titans", {"chunk_length": 0}, "core titans: chunk_length is 0, expected more than 0"),
    ("titans", {"max_learning_rate": 0.0}, "core titans: max_learning_rate is 0.0, expected more than 0"),
    ("titans", {"max_gradient_norm": -1.0}, "core titans: max_gradient_norm is -1.0, expected more than 0"),
    ("titans", {"conv_width": 0}, "core titans: conv_width is 0, expected more than 0"),
]


@pytest.mark.parametrize(("name", "hyperparameters", "says"), MISTAKES, ids=str)
def test_mistakes(name, hyperparameters, says):
    with pytest.raises(MemrlError) as error:
        make_core(name, 8, rngs=nnx.Rngs(0), **hyperparameters)
    assert str(error.value) == says


def test_the_grid_keeps_every_step_in_its_slot():
    T, C, phase = 7, 3, jnp.array([0, 2, 1])
    x = normal(np.random.default_rng(0), (T, 3, 2))
    grid = to_grid(x, phase, C)
    assert grid.shape == (chunks_needed(T, C), 3, C, 2)
    for t, b in np.ndindex(T, 3):
        slot = int(phase[b]) + t
        assert_close(grid[slot // C, b, slot % C], x[t, b], 0)
    assert jnp.sum(jnp.abs(grid)) == pytest.approx(float(np.sum(np.abs(x))), rel=1e-6)
    assert_close(from_grid(grid, phase, T), x, 0)


def test_each_way_over_the_grid_is_the_gradient_of_the_other():
    T, C, phase = 7, 3, jnp.array([0, 2])
    rng = np.random.default_rng(0)
    x, y = normal(rng, (T, 2)), normal(rng, (chunks_needed(T, C), 2, C))
    there = jax.grad(lambda x: jnp.sum(y * to_grid(x, phase, C)))(x)
    back = jax.grad(lambda y: jnp.sum(x * from_grid(y, phase, T)))(y)
    assert_close(there, from_grid(y, phase, T), 0)
    assert_close(back, to_grid(x, phase, C), 0)


def make(**hyperparameters):
    return make_core("titans", 8, rngs=nnx.Rngs(0), **{"width": 4, "chunk_length": 4} | hyperparameters)


def test_rows_may_be_at_phases_of_their_own():
    core, rng = make(), np.random.default_rng(0)
    before, xs = normal(rng, (3, 3, 8)), normal(rng, (9, 3, 8))
    unroll = jax.jit(core.unroll)
    rows = []
    for row, steps in enumerate([0, 1, 3]):
        state = core.initial_state(1)
        if steps:
            state, _ = core.unroll(state, before[:steps, row : row + 1], jnp.zeros((steps, 1), bool))
        rows.append((state, unroll(state, xs[:, row : row + 1], jnp.zeros((9, 1), bool))))
    state = jax.tree.map(lambda *x: jnp.concatenate(x), *(state for state, _ in rows))
    last, ys = unroll(state, xs, jnp.zeros((9, 3), bool))
    assert state.memory.phase.tolist() == [0, 1, 3]
    assert last.memory.phase.tolist() == [1, 2, 0]
    for row, (_, (alone, y)) in enumerate(rows):
        assert_close(jax.tree.map(lambda x, row=row: x[row : row + 1], last), alone, 2e-5)
        assert_close(ys[:, row : row + 1], y, 2e-5)


def test_an_episode_may_begin_without_a_reset():
    core, x = make(), jnp.ones((2, 8))
    _, fresh = core.step(core.initial_state(2), x, jnp.zeros(2, bool))
    state, _ = core.step(core.initial_state(2), -x, jnp.zeros(2, bool))
    _, again = core.step(state, x, jnp.ones(2, bool))
    assert_close(again, fresh, 1e-6)


def test_no_weights_of_single_steps_are_held():
    T, B, d = 32, 3, 5
    core = make(width=d, expansion=3, chunk_length=8)
    state = core.initial_state(B)

    def loss(xs):
        return jnp.sum(core.unroll(state, xs, jnp.zeros((T, B), bool))[1])

    jaxpr = jax.make_jaxpr(jax.grad(loss))(jnp.ones((T, B, 8))).jaxpr
    shapes = {tuple(v.aval.shape) for e in equations(jaxpr) for v in e.outvars}
    weights = [shape for shape in shapes if shape[-2:] in ((d, 3 * d), (3 * d, d))]
    assert max(math.prod(shape[:-2]) for shape in weights) == B * (chunks_needed(T, 8) - 1)


def test_a_step_costs_what_a_step_of_a_long_unroll_costs():
    """In operations as XLA counts them; a step that computed a chunk would cost a chunk's times as much."""
    core = make(width=32, chunk_length=16)
    state = core.initial_state(4)

    def flops(T: int) -> float:
        lowered = jax.jit(core.unroll).lower(state, jnp.zeros((T, 4, 8)), jnp.zeros((T, 4), bool))
        cost = lowered.cost_analysis()
        assert cost is not None
        return cost["flops"]

    assert flops(1) < flops(16) / 8
