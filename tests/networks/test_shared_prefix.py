"""Groups that begin alike: the shared forward pass is the plain one, in values and in gradients, for every core."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cores.core_references import with_its_source
from flax import nnx
from quick import quick_jit

from memrl import ActorCritic, NetworkConfig, core_config, list_cores
from memrl.networks import rows_alike, unroll_groups
from memrl.spaces import Box, Discrete

T, P, G, GROUPS = 12, 7, 3, 2
B = G * GROUPS
SMALL = NetworkConfig(features=8, encoder_sizes=(), head_sizes=(8,))
IN_CI = ("gru", "s5", "titans")


def observations():
    """Rows that are the same in a group for P steps, and then differ; a reset within the prefix, others after it."""
    rng = np.random.default_rng(0)
    shared = np.repeat(rng.standard_normal((P, GROUPS, 3)), G, 1)
    xs = np.concatenate([shared, rng.standard_normal((T - P, B, 3))]).astype(np.float32)
    resets = np.zeros((T, B), bool)
    resets[0] = resets[4, :G] = resets[9, 1] = True
    return jnp.array(xs), jnp.array(resets)


@pytest.mark.parametrize(
    "core", [core if core in IN_CI else pytest.param(core, marks=pytest.mark.slow) for core in list_cores()]
)
def test_it_equals_the_plain_pass(core):
    def make(key):
        cores = with_its_source(core_config(core))
        return ActorCritic(Box(-5.0, 5.0, (3,)), Discrete(4), cores, SMALL, rngs=nnx.Rngs(key))

    xs, resets = observations()
    graphdef, params = nnx.split(make(jax.random.key(0)))
    weights = jnp.array(np.random.default_rng(1).standard_normal((T, B, 4)), jnp.float32)

    @partial(quick_jit, static_argnames=("prefix",))
    def run(prefix, params):
        def loss(params):
            output: Any = unroll_groups(nnx.merge(graphdef, params), xs, resets, G, prefix)
            return jnp.sum(weights * output.policy.logits) + jnp.sum(weights[..., 0] * output.value), output

        gradient, output = jax.grad(loss, has_aux=True)(params)
        return output.policy.logits, output.value, gradient

    # Exact but for the order in which float32 is summed up.
    expected = run(0, params)
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5 * scale), run(P, params), expected)


def test_rows_that_differ_are_seen():
    xs, resets = observations()
    np.testing.assert_array_equal(rows_alike((xs, resets), G), np.arange(T) < P)
    np.testing.assert_array_equal(rows_alike((xs, resets), 1), True)
    np.testing.assert_array_equal(rows_alike(resets.at[2, 1].set(True), G), [t not in (2, 9) for t in range(T)])
