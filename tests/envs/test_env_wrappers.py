"""Wrappers, checked against the plain environment played with the same keys."""

import itertools
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from env_rollout import assert_in_space
from quick import precise_jit

from memrl.envs import make_env
from memrl.envs.base import Task
from memrl.envs.flatten import flat_space, flatten
from memrl.envs.wrappers import EpisodeStatistics, FlattenObservation, PreviousStep, Wrapper
from memrl.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple


class Toy(Task):
    """Five steps at most, ended early by chance; spaces of every kind."""

    def observation_space(self, params):
        inner = Tuple([Box(jnp.array([-1, 0]), jnp.array([1, 9]), (2,), jnp.int32), MultiDiscrete([2, 3])])
        return Dict({"b": Discrete(6), "a": inner})

    def action_space(self, params):
        return MultiDiscrete([3, 2])

    @property
    def default_params(self):
        return jnp.int32(5)

    def reset_env(self, key, params):
        time = jnp.zeros((), jnp.int32)
        return self._see(time), time

    def step_env(self, key, state, action, params):
        time = state + 1
        reward = (action[0] * 10 + action[1]).astype(jnp.float32)
        return self._see(time), time, reward, jax.random.bernoulli(key, 0.2), {}

    def is_truncated(self, state, params):
        return state >= params

    def _see(self, time):
        return {"b": time, "a": (jnp.stack([time * 0, time]), jnp.stack([time % 2, time % 3]))}


class Trace(NamedTuple):
    """First observation, and leaves [T, ...] of the steps that follow."""

    first: Any
    observation: Any
    final: Any
    action: Any
    reward: Any
    done: Any
    state: Any


@partial(precise_jit, static_argnames=("env", "num_steps"))
def trace(env, params, key, num_steps=60):
    first, state = env.reset(key, params)

    def step(state, key):
        action = env.action_space(params).sample(key)
        obs, state, reward, terminated, truncated, info = env.step(key, state, action, params)
        return state, (obs, info["final_observation"], action, reward, terminated | truncated, state)

    return Trace(first, *jax.lax.scan(step, state, jax.random.split(key, num_steps))[1])


TOY = Toy()
TMAZE = make_env("memory/TMaze", length=4)
PENDULUM = make_env("gymnax/Pendulum-v1", max_steps_in_episode=7)
ENVS = {"toy": (TOY, TOY.default_params), "tmaze": TMAZE, "pendulum": PENDULUM}
EVERYTHING = partial(PreviousStep, reward=True, start=True)


@pytest.fixture(params=ENVS)
def plain(request):
    return ENVS[request.param]


def played(env, params, seed=0) -> Trace:
    return jax.tree.map(np.asarray, trace(env, params, jax.random.key(seed)))


def test_a_bare_wrapper_changes_nothing(plain):
    env, params = plain
    wrapped = Wrapper(env)
    assert wrapped.name == env.name
    assert str(wrapped.action_space(params)) == str(env.action_space(params))
    assert str(wrapped.observation_space(params)) == str(env.observation_space(params))
    jax.tree.map(np.testing.assert_array_equal, played(env, params), played(wrapped, params))


def test_statistics_are_the_sums_over_episodes(plain):
    env, params = plain
    run = played(EpisodeStatistics(env), params)
    total, length, last = 0.0, 0, (0.0, 0)
    for t, (reward, done) in enumerate(zip(run.reward, run.done, strict=True)):
        total, length = total + reward, length + 1
        if done:
            last, total, length = (total, length), 0.0, 0
        state = jax.tree.map(lambda x, t=t: x[t], run.state._replace(env_state=()))
        np.testing.assert_allclose(state[1:], (total, length, *last), rtol=1e-5, atol=1e-6)
    assert run.done.sum() > 3
    assert run.state.returned_return.dtype == np.float32
    assert run.state.returned_length.dtype == np.int32


def test_previous_step_is_what_led_here(plain):
    env, params = plain
    base, run = played(env, params), played(EVERYTHING(env), params)
    action = run.action.astype(np.float32)
    if not isinstance(env.action_space(params), Box):
        action = np.asarray(jax.vmap(partial(flatten, env.action_space(params)))(run.action))
    done = run.done[:, None]
    for ours, plainly in ((run.observation, base.observation), (run.final, base.final)):
        jax.tree.map(np.testing.assert_array_equal, ours["observation"], plainly)
    np.testing.assert_array_equal(run.final["previous_action"], action)
    np.testing.assert_array_equal(run.final["previous_reward"][:, 0], run.reward)
    np.testing.assert_array_equal(run.final["start"], 0.0)
    np.testing.assert_array_equal(run.observation["previous_action"], np.where(done, 0, action))
    np.testing.assert_array_equal(run.observation["previous_reward"], np.where(done, 0, run.reward[:, None]))
    np.testing.assert_array_equal(run.observation["start"], done)
    assert run.done.any()


def test_an_episode_starts_after_nothing(plain):
    env, params = plain
    first = played(EVERYTHING(env), params).first
    assert not first["previous_action"].any()
    np.testing.assert_array_equal(first["previous_reward"], [0.0])
    np.testing.assert_array_equal(first["start"], [1.0])


def test_actions_become_one_hots():
    env = PreviousStep(TOY)
    _, state = env.reset(jax.random.key(0))
    info = env.step(jax.random.key(0), state, jnp.array([2, 0]))[-1]
    np.testing.assert_array_equal(info["final_observation"]["previous_action"], [0, 0, 1, 1, 0])


@pytest.mark.parametrize("flags", list(itertools.product([False, True], repeat=3)), ids=str)
def test_only_what_was_asked_for_is_shown(flags):
    env = PreviousStep(TOY, *flags)
    names = [n for n, on in zip(("previous_action", "previous_reward", "start"), flags, strict=True) if on]
    observation, _ = env.reset(jax.random.key(0))
    assert list(observation) == ["observation", *names]
    assert list(env.observation_space(env.default_params).spaces) == ["observation", *names]


def test_flat_observation_in_the_order_of_the_space():
    env = FlattenObservation(TOY)
    space = TOY.observation_space(None)
    value = {"b": jnp.int32(4), "a": (jnp.array([-1, 7]), jnp.array([1, 2]))}
    expected = [0, 0, 0, 0, 1, 0, -1, 7, 0, 1, 0, 0, 1]
    flat = flatten(space, value)
    assert flat.dtype == jnp.float32
    np.testing.assert_array_equal(flat, expected)
    assert env.observation_space(env.default_params).shape == (13,)
    np.testing.assert_array_equal(flat_space(space).low, [0] * 6 + [-1, 0] + [0] * 5)
    np.testing.assert_array_equal(flat_space(space).high, [1] * 6 + [1, 9] + [1] * 5)


def test_final_observation_is_flat_too(plain):
    env, params = plain
    base, run = played(env, params), played(FlattenObservation(env), params)
    into_vector = jax.vmap(partial(flatten, env.observation_space(params)))
    np.testing.assert_allclose(run.observation, into_vector(base.observation), rtol=1e-6)
    np.testing.assert_allclose(run.final, into_vector(base.final), rtol=1e-6)


@pytest.mark.parametrize("order", list(itertools.permutations([EpisodeStatistics, EVERYTHING, FlattenObservation])))
def test_wrappers_compose_in_any_order(order):
    env, params = TMAZE
    for wrapper in order:
        env = wrapper(env)
    run = played(env, params)
    space = env.observation_space(params)
    for observation in (run.first, run.observation, run.final):
        assert_in_space(space, observation)
    base = played(*TMAZE)
    np.testing.assert_array_equal(run.reward, base.reward)
    np.testing.assert_array_equal(run.done, base.done)


@pytest.mark.parametrize("wrapper", [EpisodeStatistics, EVERYTHING, FlattenObservation])
def test_observations_stay_in_the_wrapped_space(wrapper, plain):
    env, params = wrapper(plain[0]), plain[1]
    run = played(env, params)
    for observation in (run.first, run.observation, run.final):
        assert_in_space(env.observation_space(params), observation)


def test_zero_is_a_previous_action_whatever_the_bounds():
    @dataclass(frozen=True)
    class Pushed(Wrapper):
        def action_space(self, params):
            return Box(1.0, 2.0, (2,))

    env = PreviousStep(Pushed(TOY))
    space = env.observation_space(env.default_params).spaces["previous_action"]
    assert space == Box(0.0, 2.0, (2,))


def test_batches_of_wrapped_environments():
    """One row of a vmapped rollout equals the same rollout alone."""
    env, params = FlattenObservation(EpisodeStatistics(EVERYTHING(TMAZE[0]))), TMAZE[1]
    keys = jax.random.split(jax.random.key(5), 3)
    rows = jax.vmap(lambda key: trace(env, params, key))(keys)
    alone = trace(env, params, keys[1])
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[1], y), rows, alone)


def test_equal_wrapped_environments_are_equal():
    assert EVERYTHING(make_env("memory/TMaze")[0]) == EVERYTHING(make_env("memory/TMaze")[0])
    assert hash(PreviousStep(TOY)) != hash(PreviousStep(TOY, reward=True))
