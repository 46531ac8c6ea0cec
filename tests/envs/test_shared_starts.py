"""Copies that start alike: whatever their episodes' lengths, the n-th starts are the same, by either way to reset."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memrl import MemrlError, make_env
from memrl.envs.base import Task
from memrl.envs.meta.projection import RandomProjection
from memrl.envs.meta.trials import Trials
from memrl.envs.shared_starts import SharedStarts
from memrl.envs.wrappers import PreviousStep

COPIES, T = 4, 40


@partial(jax.jit, static_argnames=("env",))
def play(env, params, key):
    """Random play of copies reset with one key: observations before each step, whether they start, other keys."""

    def one(action_key):
        def step(carry, i):
            observation, state, start = carry
            action = env.action_space(params).sample(jax.random.fold_in(action_key, 2 * i))
            step_key = jax.random.fold_in(action_key, 2 * i + 1)
            following, state, _, terminated, truncated, _ = env.step(step_key, state, action, params)
            return (following, state, terminated | truncated), (observation, start, state.step_key(2))

        observation, state = env.reset(key, params)
        return jax.lax.scan(step, (observation, state, jnp.ones((), bool)), jnp.arange(T))[1]

    return jax.vmap(one)(jax.random.split(jax.random.key(7), COPIES))


CASES = {
    "evidence": ("memory/EvidenceAccumulation", {"length": 6}),  # answers end it at any time
    "costly reset": ("popgym/MineSweeperEasy", {}),  # with the layout in its state
}


@pytest.mark.parametrize("case", CASES)
def test_the_nth_episodes_start_alike(case):
    name, options = CASES[case]
    inner, params = make_env(name, **options)
    env = SharedStarts(inner)
    observations, starts, _ = play(env, params, jax.random.key(3))
    flat = np.asarray(observations).reshape(COPIES, T, -1)
    first = [flat[i][np.asarray(starts[i])] for i in range(COPIES)]
    assert len({len(x) for x in first}) > 1  # the copies are not in step
    for x in first[1:]:
        shared = min(len(x), len(first[0]))
        assert shared > 2
        np.testing.assert_array_equal(x[:shared], first[0][:shared])
    again = play(env, params, jax.random.key(4))[0]
    assert (np.asarray(again) != np.asarray(observations)).any()


def test_hidden_state_is_shared_as_well():
    """The side that is right, of the tenth episode, in copies with and without shared chance."""
    inner, params = make_env("memory/EvidenceAccumulation", length=1)  # each step is an episode

    @partial(jax.jit, static_argnames=("env",))
    def sides(env, key):
        def step(state, i):
            _, state, *_ = env.step(jax.random.fold_in(key, i), state, jnp.int32(0), params)
            return state, state.env_state.side

        return jax.lax.scan(step, env.reset(jax.random.key(5), params)[1], jnp.arange(30))[1]

    for noise in (True, False):
        env = SharedStarts(inner, shared_noise=noise)
        np.testing.assert_array_equal(sides(env, jax.random.key(0)), sides(env, jax.random.key(1)))
    assert 5 < sides(env, jax.random.key(0)).sum() < 25


def test_keys_in_common():
    """The same in copies at the same step of the same episode, and there only."""
    inner, params = make_env("memory/TMaze", length=3)  # all episodes are equally long
    keys = jax.random.key_data(play(SharedStarts(inner), params, jax.random.key(3))[2])
    keys = np.asarray(keys).reshape(COPIES, T, -1)
    np.testing.assert_array_equal(keys, np.broadcast_to(keys[:1], keys.shape))
    assert len({tuple(key) for key in keys[0]}) == T


def test_an_environment_on_the_host_is_refused():
    class Inner(Task):
        on_host = True

    with pytest.raises(MemrlError, match=r"^Inner runs on the host, expected an environment whose starts can"):
        SharedStarts(Inner())


def test_which_actions_answer():
    env: Any = make_env("memory/EvidenceAccumulation")[0]
    assert env.answer_actions == (0, 1)
    assert SharedStarts(PreviousStep(env)).answer_actions == (0, 1)
    assert RandomProjection(env, 4).answer_actions == (0, 1)
    assert RandomProjection(env, 4, permute_actions=True).answer_actions == ()
    assert Trials(env, 2).answer_actions == ()
    assert SharedStarts(make_env("memory/TMaze")[0]).answer_actions == ()
    assert PreviousStep(make_env("gymnax/CartPole-v1")[0]).answer_actions == ()
