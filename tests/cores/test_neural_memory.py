"""Memories that learn at test time: mistakes, rows at phases of their own, what is held, and what a step costs."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cores.numeric import assert_close, normal
from flax import nnx
from jax import lax
from jaxprs import equations
from quick import quick_jit

from memrl import MemrlError, list_cores, make_core
from memrl.cores import CORES
from memrl.cores.chunk_grid import chunks_needed, from_grid, to_grid
from memrl.cores.inner_blocks import Steps
from memrl.cores.inner_loop import InnerLoop, InnerState, Optimiser
from memrl.cores.inner_network import InnerNetwork, attentional_bias
from memrl.cores.newton_schulz import newton_schulz
from memrl.kernels import gated_delta_rule

MISTAKES = [
    ("titans", {"width": 0}, "core titans: width is 0, expected more than 0"),
    ("titans", {"depth": 0}, "core titans: depth is 0, expected more than 0"),
    ("titans", {"chunk_length": 0}, "core titans: chunk_length is 0, expected more than 0"),
    ("titans", {"max_learning_rate": 0.0}, "core titans: max_learning_rate is 0.0, expected more than 0"),
    ("titans", {"max_gradient_norm": -1.0}, "core titans: max_gradient_norm is -1.0, expected more than 0"),
    ("titans", {"conv_width": 0}, "core titans: conv_width is 0, expected more than 0"),
    ("yaad", {"bias": "l1"}, "core yaad: bias is 'l1', expected one of 'dot_product', 'l2', 'lp', 'huber'"),
    ("memora", {"retention": "k"}, "core memora: retention is 'k', expected one of 'none', 'decay', 'lq', 'kl'"),
    (
        "ttt_mlp",
        {"optimiser": "adam"},
        "core ttt_mlp: optimiser is 'adam', expected one of 'gradient', 'momentum', 'newton_schulz'",
    ),
    ("atlas", {"window": 0}, "core atlas: window is 0, expected more than 0"),
    ("atlas", {"degree": 0}, "core atlas: degree is 0, expected more than 0"),
    ("moneta", {"bias_power": 1.0}, "core moneta: bias_power is 1.0, expected at least 2"),
    ("moneta", {"retention_power": 1.0}, "core moneta: retention_power is 1.0, expected at least 2"),
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


def make(name="titans", **hyperparameters) -> Any:
    return make_core(name, 8, rngs=nnx.Rngs(0), **{"width": 4, "chunk_length": 4} | hyperparameters)


@pytest.mark.parametrize("name", ["titans", "titans_mac"])
def test_rows_may_be_at_phases_of_their_own(name):
    core, rng = make(name), np.random.default_rng(0)
    before, xs = normal(rng, (3, 3, 8)), normal(rng, (9, 3, 8))
    unroll = quick_jit(core.unroll)
    rows = []
    for row, steps in enumerate([0, 1, 3]):
        state = core.initial_state(1)
        if steps:
            state, _ = unroll(state, before[:steps, row : row + 1], jnp.zeros((steps, 1), bool))
        rows.append((state, unroll(state, xs[:, row : row + 1], jnp.zeros((9, 1), bool))))
    state = jax.tree.map(lambda *x: jnp.concatenate(x), *(state for state, _ in rows))
    last, ys = unroll(state, xs, jnp.zeros((9, 3), bool))
    assert jax.tree.leaves(state)[-1].tolist() == [0, 1, 3]
    assert jax.tree.leaves(last)[-1].tolist() == [1, 2, 0]
    for row, (_, (alone, y)) in enumerate(rows):
        assert_close(jax.tree.map(lambda x, row=row: x[row : row + 1], last), alone, 2e-5)
        assert_close(ys[:, row : row + 1], y, 2e-5)


def test_an_episode_may_begin_without_a_reset():
    core, x = make(), jnp.ones((2, 8))
    step = quick_jit(core.step)
    _, fresh = step(core.initial_state(2), x, jnp.zeros(2, bool))
    state, _ = step(core.initial_state(2), -x, jnp.zeros(2, bool))
    _, again = step(state, x, jnp.ones(2, bool))
    assert_close(again, fresh, 1e-6)


def test_the_metric_is_the_mean_loss_before_each_step_is_learnt():
    """M(k) = 0 at the start of the chunk, and both values are SiLU(1) = 0.7310586: a loss of twice its square."""
    core = make(width=2, depth=1, conv_width=1)
    for param in (core.project.kernel, core.network.layers[0]):
        param[...] = jnp.zeros_like(param[...])
    core.convolution.kernel[...] = jnp.ones((1, 6))
    core.project.bias[...] = core.project.bias[...].at[4:6].set(1.0)
    xs, resets = jnp.ones((3, 2, 8)), jnp.zeros((3, 2), bool)
    assert core.metrics == ("inner_loss",)
    unroll = quick_jit(core.unroll_with_extras)
    _, _, (_, metrics) = unroll(core.initial_state(2), xs, resets)
    assert metrics["inner_loss"] == pytest.approx(1.0688933, rel=1e-6)
    _, _, (_, metrics) = unroll(core.initial_state(2), xs[:1], resets[:1])
    assert metrics["inner_loss"] == pytest.approx(1.0688933, rel=1e-6)


@pytest.mark.parametrize("name", [name for name in list_cores() if CORES[name].core.metrics])
def test_metrics_are_named_and_finite(name):
    """Also after a step that is not finite, which takes the memory with it."""
    core, xs = make(name), normal(np.random.default_rng(0), (6, 2, 8))
    xs[1, 0] = np.nan
    _, ys, extras = quick_jit(core.unroll_with_extras)(core.initial_state(2), xs, jnp.zeros((6, 2), bool))
    assert tuple(extras.metrics) == core.metrics
    assert all(x.shape == () and np.isfinite(x) for x in extras.metrics.values())
    assert jnp.isnan(ys[1:, 0]).all()


@pytest.mark.parametrize("name", ["atlas", "titans_mac", "titans_mag", "titans_mal"])
def test_the_metric_of_an_unroll_is_the_mean_of_its_steps(name):
    core, rng = make(name, window=3), np.random.default_rng(0)
    xs, resets = jnp.asarray(normal(rng, (9, 2, 8))), jnp.asarray(rng.random((9, 2)) < 0.2)

    @quick_jit
    def by_both(state):
        def step(state, now):
            state, _, extras = core.unroll_with_extras(state, *(x[None] for x in now))
            return state, extras.metrics

        return core.unroll_with_extras(state, xs, resets)[2].metrics, lax.scan(step, state, (xs, resets))[1]

    whole, steps = by_both(core.initial_state(2))
    assert_close(whole, jax.tree.map(jnp.mean, steps), 1e-5)


@pytest.mark.parametrize("name", ["titans", "titans_mac", "titans_mag", "titans_mal"])
def test_a_memory_that_diverges_is_seen_in_the_metric(name):
    core, xs = make(name, max_learning_rate=1e30), normal(np.random.default_rng(0), (9, 2, 8))
    _, _, extras = quick_jit(core.unroll_with_extras)(core.initial_state(2), xs, jnp.zeros((9, 2), bool))
    assert not np.isfinite(extras.metrics["inner_loss"])


@pytest.mark.parametrize("name", ["titans", "ttt_linear", "ttt_mlp"])
def test_a_long_wait_teaches_what_is_seen(name):
    """With default rates: of a step that comes again and again, less and less is to be learnt."""
    core: Any = make_core(name, 32, rngs=nnx.Rngs(0))
    x = normal(np.random.default_rng(0), (1, 4, 32))

    @quick_jit
    def waits(state):
        def chunk(state, _):
            xs = jnp.repeat(x, core.config.chunk_length, 0)
            state, _, extras = core.unroll_with_extras(state, xs, jnp.zeros(xs.shape[:2], bool))
            return state, extras.metrics["inner_loss"]

        return lax.scan(chunk, state, length=20)[1]

    losses = waits(core.initial_state(4))
    assert losses[-1] < 0.5 * losses[0]


def loop_of(optimiser: Optimiser = "gradient", weights_of=None, window=1, **hyperparameters):
    network = InnerNetwork(4, 2, 2, rngs=nnx.Rngs(0), **hyperparameters)
    return InnerLoop(network, attentional_bias("l2", 3.0), 4, 10.0, optimiser, weights_of, window)


def steps_of(rng, T, B, rate=0.1, window=1):
    q, k, v = (jnp.asarray(normal(rng, (T, B, 4))) for _ in range(3))
    log_keep, log_momentum = (-jnp.asarray(rng.random((T, B)), jnp.float32) for _ in range(2))
    gates = jnp.asarray(rng.random((T, B, window)), jnp.float32) if window > 1 else ()
    return Steps(q, k, v, jnp.full((T, B), rate), log_keep, log_momentum, jnp.zeros((T, B)), gates)


def test_a_loss_is_nan_where_the_memory_has_diverged_and_not_where_inputs_were_bad():
    loop, steps, resets = loop_of(), steps_of(np.random.default_rng(0), 9, 3), np.zeros((9, 3), bool)
    resets[7, 1] = True
    diverged = steps._replace(rate=steps.rate.at[1, 1].set(jnp.inf).at[1, 2].set(1e30))
    _, ys, losses = quick_jit(loop.unroll)(loop.initial_state(3), diverged, jnp.asarray(resets))
    # The rate of step 1 is infinite in row 1, and huge in row 2, so that what is read from then on is infinite.
    assert np.isfinite(losses[:, :2]).all()
    assert jnp.isnan(ys[1:7, 1]).all()
    assert np.isfinite(ys[7:, 1]).all()
    assert np.isfinite(losses[:1, 2]).all()
    assert not np.isfinite(losses[1:, 2]).any()


@pytest.mark.parametrize("optimiser", ["gradient", "momentum"])
@pytest.mark.parametrize("window", [1, 6])
def test_the_dual_form_is_the_loop_over_steps(optimiser, window):
    rng = np.random.default_rng(0)
    steps, resets = steps_of(rng, 11, 2, window=window), jnp.asarray(rng.random((11, 2)) < 0.15)
    dual, by_steps = (loop_of(optimiser, weights_of, window) for weights_of in (None, lambda w: w))
    state = dual.initial_state(2)
    assert_close(quick_jit(dual.unroll)(state, steps, resets), quick_jit(by_steps.unroll)(state, steps, resets), 1e-5)


@pytest.mark.parametrize("window", [1, 3])
def test_gaps_of_the_grid_teach_nothing(window):
    """Also where the memory is not zero of a key of zero, as with a bias after its last layer."""
    loop = loop_of("newton_schulz", window=window, offset=True)
    loop.network.layers[1][...] = loop.network.layers[1][...].at[-1].set(1.0)
    steps, resets = steps_of(np.random.default_rng(0), 7, 2, window=window), jnp.zeros((7, 2), bool)
    unroll = quick_jit(loop.unroll)
    whole, ys, _ = unroll(loop.initial_state(2), steps, resets)
    half, first, _ = unroll(loop.initial_state(2), jax.tree.map(lambda x: x[:3], steps), resets[:3])
    last, second, _ = unroll(half, jax.tree.map(lambda x: x[3:], steps), resets[3:])
    assert_close((last, jnp.concatenate([first, second])), (whole, ys), 1e-5)


@pytest.mark.parametrize(("name", "apart"), [("titans", 1), ("titans_mac", 0)])
def test_no_weights_of_single_steps_are_held(name, apart):
    """But those of the ends of chunks, besides the last chunk's where that is computed apart."""
    T, B, d = 32, 3, 5
    core = make(name, width=d, expansion=3, chunk_length=8)
    state = core.initial_state(B)

    def loss(xs):
        return jnp.sum(core.unroll(state, xs, jnp.zeros((T, B), bool))[1])

    jaxpr = jax.make_jaxpr(jax.grad(loss))(jnp.ones((T, B, 8))).jaxpr
    shapes = {tuple(v.aval.shape) for e in equations(jaxpr) for v in e.outvars}
    weights = [shape for shape in shapes if shape[-2:] in ((d, 3 * d), (3 * d, d))]
    assert max(math.prod(shape[:-2]) for shape in weights) == B * (chunks_needed(T, 8) - apart)


@pytest.mark.parametrize("name", ["titans", "titans_mac"])
def test_a_step_costs_what_a_step_of_a_long_unroll_costs(name):
    """In operations as XLA counts them; a step that computed a chunk would cost a chunk's times as much."""
    core = make(name, width=32, chunk_length=16)
    state = core.initial_state(4)

    def flops(T: int) -> float:
        lowered = jax.jit(core.unroll).lower(state, jnp.zeros((T, 4, 8)), jnp.zeros((T, 4), bool))
        cost = lowered.cost_analysis()
        assert cost is not None
        return cost["flops"]

    assert flops(1) < flops(16) / 8


@pytest.mark.parametrize("gated", [False, True])
def test_its_simplest_member_is_the_delta_rule(gated):
    """A matrix, l2, gradient descent and chunks of one step: theta = beta / 2 makes I - beta k k^T of the step."""
    T, B, d = 9, 2, 4
    rng = np.random.default_rng(0)
    q, k, v = (normal(rng, (T, B, d)) for _ in range(3))
    k = k / np.linalg.norm(k, axis=-1, keepdims=True)
    beta, decay = jnp.asarray(rng.random((T, B)), jnp.float32), -jnp.asarray(rng.random((T, B)), jnp.float32)
    start, resets = normal(rng, (B, d, d)), jnp.asarray(rng.random((T, B)) < 0.2)
    network = InnerNetwork(d, 1, 1, rngs=nnx.Rngs(0))
    network.layers[0][...] = jnp.zeros((d, d))
    loop = InnerLoop(network, attentional_bias("l2", 3.0), 1, 1e6, "gradient")
    none = jnp.zeros((T, B))
    if gated:
        # Gated DeltaNet takes the gradient after it has forgotten, this rule before: other rates and values make up.
        keep = jnp.exp(decay)
        steps = Steps(q, k, v / keep[..., None], keep * beta / 2, decay, none, none)
    else:
        steps = Steps(q, k, v, beta / 2, none, none, none)
    state = InnerState((start,), (start,), (), jnp.zeros(B, jnp.int32))
    last, ys, losses = quick_jit(loop.unroll)(state, steps, resets)

    def heads(x):
        return x[:, :, None]

    log_decay = heads(decay) if gated else None
    o, s = quick_jit(gated_delta_rule)(
        heads(q), heads(k)[None], heads(v)[None], heads(beta)[None], log_decay, s0=start[:, None], reset=resets
    )
    assert_close(ys, o[:, :, 0], 2e-6)
    assert_close(last.weights[0], s[:, 0], 2e-6)
    assert losses.shape == (T, B)


@pytest.mark.parametrize("shape", [(4, 7), (7, 4)])
def test_newton_schulz_makes_singular_values_alike(shape):
    x = normal(np.random.default_rng(0), (2, *shape))
    singular = np.linalg.svd(newton_schulz(jnp.asarray(x)), compute_uv=False)
    assert singular.min() > 0.6
    assert singular.max() < 1.3
