"""Running moments against NumPy over everything at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memrl.agents import normaliser
from memrl.agents.normaliser import init_moments

update_moments = jax.jit(normaliser.update_moments, static_argnames="batch_axes")
normalise = jax.jit(normaliser.normalise)

EXAMPLE = {"scalar": jnp.zeros(()), "vector": jnp.zeros(3), "image": jnp.zeros((2, 2, 1), jnp.uint8)}


def batch(seed, *leading):
    rng = np.random.default_rng(seed)
    return {
        "scalar": np.float32(rng.normal(5, 2, leading)),
        "vector": np.float32(rng.normal([0, 1, -100], [1, 0.1, 3], (*leading, 3))),
        "image": rng.integers(0, 256, (*leading, 2, 2, 1)).astype(np.uint8),
    }


def joined(batches, batch_axes):
    """All batches as one, with one leading axis."""
    return jax.tree.map(lambda *xs: np.concatenate([x.reshape(-1, *x.shape[batch_axes:]) for x in xs]), *batches)


@pytest.mark.parametrize("leading", [[(7,), (1,), (300,)], [(4, 3), (1, 1), (20, 16)]], ids=str)
def test_batches_give_the_moments_of_everything(leading):
    batches = [batch(i, *shape) for i, shape in enumerate(leading)]
    moments = init_moments(EXAMPLE)
    for x in batches:
        moments = update_moments(moments, x, batch_axes=len(leading[0]))
    everything = joined(batches, len(leading[0]))
    assert moments.samples == len(everything["scalar"])
    for name, x in everything.items():
        # float32 against float64
        np.testing.assert_allclose(moments.mean[name], x.mean(0, np.float64), rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(moments.variance[name], x.var(0, np.float64), rtol=2e-4)


def test_a_large_offset_keeps_the_variance():
    """The textbook E[x^2] - E[x]^2 would lose it all in float32."""
    x = 1e4 + np.random.default_rng(0).normal(size=(50, 64)).astype(np.float32)
    moments = init_moments(jnp.zeros(()))
    for row in x:
        moments = update_moments(moments, row, batch_axes=1)
    np.testing.assert_allclose(moments.variance, x.var(dtype=np.float64), rtol=0.01)


def test_a_long_run_does_not_overflow():
    """An int32 number of samples, times the size of a batch, would."""
    moments = init_moments(jnp.zeros(()))._replace(samples=jnp.float32(1e6))
    moments = update_moments(moments, jnp.full(5000, 1000.0), batch_axes=1)
    old, new = 1 / 1.005, 0.005 / 1.005  # shares
    np.testing.assert_allclose(moments.mean, new * 1000, rtol=1e-5)
    np.testing.assert_allclose(moments.variance, old + old * new * 1000**2, rtol=1e-5)


def test_moments_are_a_scan_carry():
    """Statistics that change dtype or weak type make a train state that the compiled step rejects."""
    batches = jax.tree.map(lambda *xs: np.stack(xs), *[batch(i, 4, 3) for i in range(5)])
    start = init_moments(EXAMPLE)
    end, _ = jax.lax.scan(lambda m, x: (update_moments(m, x, batch_axes=2), None), start, batches)
    assert jax.tree.map(jax.typeof, start) == jax.tree.map(jax.typeof, end)
    assert end.samples == 60


def test_nothing_seen_leaves_observations_alone():
    x = batch(0, 5)
    x["vector"] = x["vector"].clip(-10, 10)
    jax.tree.map(np.testing.assert_allclose, normalise(init_moments(EXAMPLE), x), x)


def test_normalised_observations():
    moments = init_moments(jnp.zeros(2))._replace(mean=jnp.array([1.0, -2.0]), variance=jnp.array([4.0, 0.25]))
    seen = normalise(moments, jnp.array([[[3.0, -2.5]], [[1.0, 100.0]]]))
    np.testing.assert_allclose(seen, [[[1, -1]], [[0, 10]]], rtol=1e-6)  # the last one is clipped


def test_a_constant_observation_stays_finite():
    moments = update_moments(init_moments(jnp.zeros(2)), jnp.full((8, 2), 3.0), batch_axes=1)
    np.testing.assert_array_equal(normalise(moments, jnp.full((4, 2), 3.0)), np.zeros((4, 2)))


def test_integers_pass():
    x = batch(0, 6)
    moments = update_moments(init_moments(EXAMPLE), x, batch_axes=1)
    seen = normalise(moments, x)
    assert seen["image"].dtype == np.uint8
    np.testing.assert_array_equal(seen["image"], x["image"])
    assert abs(seen["scalar"].mean()) < 1e-5
