"""Probe environments: each isolates one part of the agent and has a known answer."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Combination, Probe, Rewards, Target, make_ppo
from quick import quick_jit

from memrl import GRUConfig, LSTMConfig, MLPConfig, PPOConfig, S5Config

DISCOUNT = 0.8
CONFIG = PPOConfig(
    num_envs=16,
    num_steps=8,
    epochs=4,
    minibatches=1,
    discount=DISCOUNT,
    learning_rate=1e-2,
    entropy_weight=0.0,
)
PROBES = {
    "constant": Rewards(each=1.0),
    "observed": Rewards(cue=1.0),
    "delayed": Rewards(steps=2, last=1.0),
    "terminated": Rewards(steps=4, each=1.0),
    "truncated": Rewards(steps=4, each=1.0, cut=True),
    "action": Rewards(action=1.0),
    "match": Rewards(match=1.0),
    "remembered value": Rewards(steps=4, cue=1.0),
    "remembered action": Rewards(steps=4, match=1.0),
}
MEMORY = ("remembered value", "remembered action")


@partial(quick_jit, static_argnames=("env", "core", "config", "num_updates"))
def train(env, core, config, num_updates, params):
    """The transitions of one more rollout after training, on P probes side by side."""

    def one(params, key):
        agent = make_ppo(env, config, core, params=params, num_updates=num_updates)
        state, _ = jax.lax.scan(lambda s, _: agent.update(s), agent.init(key), length=num_updates)
        return agent.collect(state, key)[1].transitions

    keys = jax.random.split(jax.random.key(0), len(jax.tree.leaves(params)[0]))
    return jax.vmap(one)(params, keys)


def train_probes(core, names):
    """The transitions of each probe, in one program and from different seeds."""
    params = jax.tree.map(lambda *xs: jnp.stack([jnp.asarray(x) for x in xs]), *[PROBES[n] for n in names])
    result = jax.tree.map(np.asarray, train(Probe(), core, CONFIG, 80, params))
    return [jax.tree.map(lambda x, i=i: x[i], result) for i in range(len(names))]


@pytest.fixture(scope="module")
def learned():
    names = [name for name in PROBES if name not in MEMORY]
    return dict(zip(names, train_probes(GRUConfig(), names), strict=True))


def values(transitions, time=0):
    return transitions.value[transitions.observation[..., 0] == time]


def last_rewards(transitions):
    return transitions.reward[transitions.terminated]


# Values are learned: 0.05 is above what is left after 80 updates, and far below what a bug leaves.


def test_a_constant_reward_is_the_value(learned):
    """Fails alone: the critic or its optimiser."""
    np.testing.assert_allclose(values(learned["constant"]), 1, atol=0.05)


def test_the_value_follows_the_observation(learned):
    """Fails, but not with a constant reward: observations do not reach the critic."""
    transitions = learned["observed"]
    np.testing.assert_allclose(transitions.value, transitions.observation[..., 1] > 0, atol=0.05)


def test_a_reward_one_step_ahead_is_discounted_once(learned):
    """Fails alone: bootstrapping from the next value, or the discount."""
    np.testing.assert_allclose(values(learned["delayed"], time=0), DISCOUNT, atol=0.05)
    np.testing.assert_allclose(values(learned["delayed"], time=1), 1, atol=0.05)


def test_nothing_follows_termination(learned):
    for time in range(4):
        expected = sum(DISCOUNT**i for i in range(4 - time))
        np.testing.assert_allclose(values(learned["terminated"], time), expected, atol=0.15)


def test_truncation_goes_on_forever(learned):
    """The same rewards, cut every four steps: the value is that of the endless sum."""
    assert learned["truncated"].truncated.any()
    np.testing.assert_allclose(learned["truncated"].value, 1 / (1 - DISCOUNT), atol=0.5)


def test_the_better_action_is_taken(learned):
    """Fails alone: the sign of the advantage, or the policy's gradient."""
    assert last_rewards(learned["action"]).mean() > 0.95


def test_the_action_follows_the_observation(learned):
    assert last_rewards(learned["match"]).mean() > 0.95


@pytest.mark.parametrize(
    "core",
    [GRUConfig(), *(pytest.param(core, marks=pytest.mark.slow) for core in (LSTMConfig(), S5Config()))],
    ids=lambda core: type(core).__name__,
)
def test_cores_remember(core):
    """Two of three seeds: without an entropy bonus, one or two runs in a hundred stop exploring too soon."""
    learned = train_probes(core, 3 * MEMORY)
    errors = [np.abs(value.value - value.reward)[value.terminated].max() for value in learned[::2]]
    assert np.median(errors) < 0.15
    assert np.median([last_rewards(action).mean() for action in learned[1::2]]) > 0.95


def test_without_memory_it_is_chance():
    """A memoryless agent that scores here sees something that it should not."""
    value, action = train_probes(MLPConfig(), MEMORY)
    np.testing.assert_allclose(value.value[value.terminated], 0.5, atol=0.3)
    assert 0.25 < last_rewards(action).mean() < 0.75


def test_continuous_actions():
    config = PPOConfig(
        num_envs=16, num_steps=8, minibatches=2, learning_rate=1e-2, entropy_weight=0.0, max_gradient_norm=1.0
    )
    actions = train(Target(), GRUConfig(), config, 100, jnp.zeros(1)).action
    assert actions.shape == (1, 8, 16, 2)
    np.testing.assert_allclose(actions.mean((0, 1, 2)), [-0.5, 0.5], atol=0.1)


def test_several_discrete_actions():
    transitions = train(Combination(), GRUConfig(), CONFIG, 40, jnp.zeros(1))
    assert transitions.action.shape == (1, 8, 16, 2)
    assert transitions.reward.mean() > 1.9
