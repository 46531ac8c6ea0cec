"""Attention over a window, cut into blocks, against all pairs of steps at once; and what a user can get wrong."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cores.numeric import assert_close, assert_finite, normal
from flax import nnx
from jax import lax
from jaxprs import equations
from quick import quick_jit

from memrl import MemrlError, make_core
from memrl.cores.attention import MASKED, Window, attend, look_back, rotate, weights_of_rows
from memrl.cores.heads import default_heads, merge_heads

B, H, K, V, D = 2, 3, 4, 5, 8
# Steps T, window W, heads of keys and values, base of rotary angles.
PROBLEMS = [(1, 3, 1, None), (5, 40, H, 50.0), (100, 7, H, 50.0), (131, 64, 1, None)]


def problem(T, W, heads=H) -> tuple[Any, Any]:
    rng = np.random.default_rng(T + W)
    q, k, v = normal(rng, (B, T, H, K)), normal(rng, (B, W + T, heads, K)), normal(rng, (B, W + T, heads, V))
    state = Window(jnp.zeros((B, W, 1)), jnp.array([W, W // 2], jnp.int32))
    _, view = look_back(state, jnp.zeros((B, T, 1)), jnp.asarray(rng.random((T, B)) < 3 / T))
    return [q, k, v, normal(rng, (B, T, H, W + 1))], view


def every_pair(q, k, v, by_age, view, rotary_base=None):
    """The matrix [T, W + T] of all scores."""
    T, S = q.shape[1], k.shape[1]
    W = S - T
    if rotary_base is not None:
        q, k = (rotate(x[:, None], at, rotary_base)[:, 0] for x, at in ((q, np.arange(W, S)), (k, np.arange(S))))
    k, v = (jnp.repeat(x, H // x.shape[2], 2) for x in (k, v))
    age = W + np.arange(T)[:, None] - np.arange(S)[None]
    places = np.broadcast_to(np.clip(W - age, 0, W), (B, H, T, S))
    scores = jnp.einsum("bthk,bshk->bhts", q, k) + jnp.take_along_axis(jnp.moveaxis(by_age, 2, 1), places, -1)
    visible = (age[None] >= 0) & (age[None] <= view.seen[:, :, None])
    return jnp.einsum("bhts,bshv->bthv", jax.nn.softmax(jnp.where(visible[:, None], scores, MASKED)), v)


@pytest.mark.parametrize(("T", "W", "heads", "base"), PROBLEMS)
def test_blocks_equal_every_pair(T, W, heads, base):
    arrays, view = problem(T, W, heads)
    weights = normal(np.random.default_rng(0), (B, T, H, V))

    def results(program):
        def loss(arrays):
            ys = program(arrays)
            return jnp.sum(weights * ys), ys

        (_, ys), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(arrays)
        return ys, gradients

    expected = results(lambda x: every_pair(*x, view=view, rotary_base=base))
    by_blocks = results(lambda x: attend(*x[:3], view=view, by_age=x[3], rotary_base=base))
    assert_close(by_blocks, expected, 2e-5)


@pytest.mark.parametrize(("T", "W"), [(1, 3), (5, 40), (100, 7)])
def test_several_keys_of_a_row_and_keys_of_none(T, W):
    """Against rows that see two rows for one, and further rows that all see."""
    (q, *_), view = problem(T, W)
    rng, P = np.random.default_rng(0), 2
    k, v = (normal(rng, (B, W + T, 2, H, width)) for width in (K, V))
    always = normal(rng, (P, H, K)), normal(rng, (P, H, V))
    ys = attend(q, k, v, view, always=always)
    age = W + np.arange(T)[:, None] - np.arange(W + T)[None]
    visible = (age[None] >= 0) & (age[None] <= view.seen[:, :, None])
    visible = jnp.concatenate([visible, visible, jnp.ones((B, T, P), bool)], -1)
    keys, values = (
        jnp.concatenate([x[:, :, 0], x[:, :, 1], jnp.broadcast_to(a[None], (B, *a.shape))], 1)
        for x, a in zip((k, v), always, strict=True)
    )
    scores = jnp.where(visible[:, None], jnp.einsum("bthk,bshk->bhts", q, keys), MASKED)
    assert_close(ys, jnp.einsum("bhts,bshv->bthv", jax.nn.softmax(scores), values), 2e-5)


def test_memory_grows_with_the_window_and_not_with_the_sequence():
    T, W = 4096, 16
    (q, k, v, _), view = problem(T, W)
    jaxpr = jax.make_jaxpr(lambda *x: attend(*x, view=view))(q, k, v).jaxpr
    largest = max(out.aval.size for equation in equations(jaxpr) for out in equation.outvars)
    assert largest <= 4 * B * H * T * (W + 32)


@pytest.mark.parametrize("name", ["gtrxl", "window_attention", "titans_mac"])
def test_long_unroll_equals_steps(name):
    sizes = {"gtrxl": {"memory": 5}, "window_attention": {"window": 5}, "titans_mac": {"chunk_length": 5, "width": 4}}
    T, size = 70, sizes[name]
    core = make_core(name, D, rngs=nnx.Rngs(0), **size)
    rng = np.random.default_rng(0)
    xs, resets = normal(rng, (T, B, D)), jnp.asarray(rng.random((T, B)) < 0.05)
    whole = quick_jit(core.unroll)(core.initial_state(B), xs, resets)
    steps = quick_jit(lambda *inputs: lax.scan(lambda s, now: core.step(s, *now), core.initial_state(B), inputs))(
        xs, resets
    )
    assert_close(steps, whole, 2e-5)


def test_a_broken_row_is_seen_where_it_is_visible_and_nowhere_else():
    T, W, bad = 12, 3, 2
    rows = np.zeros((1, T, 1), np.float32)
    rows[0, bad] = np.inf
    resets = jnp.zeros((T, 1), bool).at[4].set(True)
    state, view = look_back(Window(jnp.zeros((1, W, 1)), jnp.zeros(1, jnp.int32)), jnp.asarray(rows), resets)
    assert_finite((state.rows, view.rows))
    assert np.flatnonzero(view.broken[0]).tolist() == [2, 3]
    assert view.seen[0].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 3, 3, 3, 3]

    def loss(q, k, v):
        return jnp.sum(attend(q, k, v, view)[:, 4:])

    (q, k, v, _), _ = problem(T, W)
    q[:, bad] = np.nan
    gradients = jax.grad(loss, (0, 1, 2))(q[:1], k[:1], v[:1])
    assert_finite(gradients)
    assert all((np.asarray(g[:, : W + 4]) == 0).all() for g in gradients[1:])


@pytest.mark.parametrize(("T", "W"), [(1, 3), (40, 3)])
def test_weights_of_rows(T, W):
    (q, k, v, by_age), view = problem(T, W)
    rng, P = np.random.default_rng(0), 2
    weights = weights_of_rows(q, k, view, by_age=by_age)
    assert_close(jnp.einsum("bths,bshv->bthv", weights, v), attend(q, k, v, view, by_age=by_age), 2e-5)
    k = normal(rng, (B, W + T, 2, H, K))
    v = jnp.broadcast_to(v[:, :, None], (B, W + T, 2, H, V))  # both of a row's values alike
    always = normal(rng, (P, H, K))
    weights = weights_of_rows(q, k, view, always=always)
    expected = attend(q, k, v, view, always=(always, jnp.zeros((P, H, V))))
    assert_close(jnp.einsum("bths,bshv->bthv", weights, v[:, :, 0]), expected, 2e-5)
    assert (weights.sum(-1) < 1).all()


@pytest.mark.parametrize("name", ["gtrxl", "window_attention"])
def test_attention_maps(name):
    T = 40
    core: Any = make_core(name, D, rngs=nnx.Rngs(0), **{"memory" if name == "gtrxl" else "window": 5, "heads": 2})
    rng = np.random.default_rng(0)
    xs, resets = normal(rng, (T, B, D)), jnp.asarray(rng.random((T, B)) < 0.1).at[0].set(True)
    weights = quick_jit(core.attention_map)(xs, resets)
    assert weights.shape == (B, T, 2, T)
    assert_close(weights.sum(-1), jnp.ones((B, T, 2)), 1e-5)
    if name == "gtrxl":
        _, view = look_back(core.initial_state(B), jnp.swapaxes(xs, 0, 1), resets)
        v, expected = core._keys_values(core.norm(jnp.swapaxes(xs, 0, 1)))[1], core.attention(view)
    else:
        v = core._heads_of(core.queries_and_rows(jnp.swapaxes(xs, 0, 1))[1])[1][:, :, 0]
        expected = jnp.swapaxes(quick_jit(core.unroll)(core.initial_state(B), xs, resets)[1], 0, 1)
    means = jnp.einsum("bths,bshv->bthv", weights, v)
    assert_close(core.output(merge_heads(means)), expected, 2e-5)


@pytest.mark.parametrize("name", ["titans_mag", "titans_mal"])
def test_attention_maps_beside_a_memory(name):
    T = 9
    core: Any = make_core(name, D, rngs=nnx.Rngs(0), attention_window=3, width=4, chunk_length=4)
    xs, resets = normal(np.random.default_rng(0), (T, B, D)), jnp.arange(T)[:, None] == jnp.zeros((1, B), int)
    weights = quick_jit(core.attention_map)(xs, resets)
    age = np.arange(T)[:, None] - np.arange(T)
    seen = np.moveaxis(weights, 2, 1) > 0
    np.testing.assert_array_equal(seen, np.broadcast_to((age >= 0) & (age <= 3), seen.shape))
    assert (weights.sum(-1) < 1).all()  # persistent tokens are looked at too
    assert make_core("gru", D, rngs=nnx.Rngs(0)).attention_map(xs, resets) is None


def test_rotary_scores_depend_on_the_distance_alone():
    q, k = normal(np.random.default_rng(0), (2, 1, 1, 1, 1, 6))
    scores = [
        float(jnp.sum(rotate(q, np.array([t]), 100.0) * rotate(k, np.array([t - 5]), 100.0))) for t in (5, 12, 10_000)
    ]
    assert_close(scores, [scores[0]] * 3, 1e-5)
    assert abs(scores[0] - float(jnp.sum(q * k))) > 0.1


def test_default_heads():
    widths = {1: 1, 8: 1, 64: 1, 127: 1, 128: 2, 160: 2, 200: 2, 256: 4, 512: 8}
    assert {features: default_heads(features) for features in widths} == widths


MISTAKES = [
    ("gtrxl", 8, {"memory": 0}, "core gtrxl: memory is 0, expected more than 0"),
    ("gtrxl", 8, {"heads": 0}, "core gtrxl: heads is 0, expected more than 0"),
    ("gtrxl", 8, {"heads": 3}, "core gtrxl: features is 8, expected a multiple of heads = 3"),
    ("gtrxl", 8, {"hidden_size": 0}, "core gtrxl: hidden_size is 0, expected more than 0"),
    ("gtrxl", 7, {}, "core gtrxl: features is 7, expected an even number for sines and cosines"),
    ("window_attention", 8, {"window": 0}, "core window_attention: window is 0, expected more than 0"),
    ("window_attention", 8, {"persistent": -1}, "core window_attention: persistent is -1, expected at least 0"),
    ("window_attention", 8, {"heads": 3}, "core window_attention: features is 8, expected a multiple of heads = 3"),
    ("window_attention", 8, {"heads": 8}, "core window_attention: features / heads is 1, expected an even number"),
    ("window_attention", 8, {"rotary_base": 0.0}, "core window_attention: rotary_base is 0.0, expected more than 0"),
]


@pytest.mark.parametrize(("name", "features", "hyperparameters", "says"), MISTAKES, ids=str)
def test_mistakes(name, features, hyperparameters, says):
    with pytest.raises(MemrlError) as error:
        make_core(name, features, rngs=nnx.Rngs(0), **hyperparameters)
    assert str(error.value).startswith(says)
    assert "\n" not in str(error.value)
