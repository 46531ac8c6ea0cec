"""Random choices of one hash each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memrl.envs.draw import integer_below

SEVERAL = [0, 1, 2, 10, 65_535, 65_536, 65_537, 2**20, 2**31 - 1]


def test_an_integer_is_the_limit_s_share_of_the_bits():
    """Against Python's integers, which do not overflow."""
    key = jax.random.key(0)
    bits = jax.random.bits(key, (256,), jnp.uint32)
    for limit in SEVERAL:
        expected = [int(b) * limit >> 32 for b in np.asarray(bits)]
        np.testing.assert_array_equal(integer_below(key, limit, (256,)), expected)


def test_limits_may_be_traced_and_differ():
    key, limits = jax.random.key(1), jnp.asarray(SEVERAL)
    drawn = integer_below(key, limits, limits.shape)
    expected = [integer_below(key, limit, limits.shape)[i] for i, limit in enumerate(SEVERAL)]
    np.testing.assert_array_equal(drawn, jnp.stack(expected))
    assert drawn.dtype == jnp.int32


@pytest.mark.parametrize("limit", [3, 100_000])
def test_integers_are_uniform(limit):
    drawn = integer_below(jax.random.key(2), limit, (300_000,))
    counts = np.bincount(np.asarray(drawn) * 3 // limit, minlength=3)
    np.testing.assert_allclose(counts / 300_000, 1 / 3, atol=0.005)
    assert 0 <= drawn.min() <= limit // 1000
    assert limit - 1 - limit // 1000 <= drawn.max() < limit
