"""Random play, recorded together with what the environment does without its automatic reset."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from quick import precise_jit

from memrl.envs.base import Task, step_key
from memrl.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple


class Played(NamedTuple):
    """T steps of B environments; leaves [T, B, ...], of `first` [B, ...]."""

    first: Any  # observation from reset
    observation: Any  # after the step, and after the reset where an episode ended
    final: Any  # info["final_observation"]
    state: Any
    action: Any
    reward: Any
    terminated: Any
    truncated: Any
    raw: Any  # observation of `step_env` from the same state
    fresh: Any  # (observation, state) of `reset_env`, which must follow where an episode ended

    @property
    def done(self):
        return self.terminated | self.truncated

    @property
    def length(self):
        """Steps of the running episode, the present one included, [T, B]."""
        count, rows = np.zeros(self.done.shape[1], int), []
        for done_t in self.done:
            count = count + 1
            rows.append(count)
            count = np.where(done_t, 0, count)
        return np.stack(rows)


@partial(precise_jit, static_argnames=("env", "num_steps"))
def _play(env, params, keys, num_steps):
    actions = env.action_space(params)

    def step(state, key):
        key, action_key = jax.random.split(key)
        action = actions.sample(action_key)
        observation, new, reward, terminated, truncated, info = env.step(key, state, action, params)
        if type(env).step is Task.step:
            raw_key, fresh_key = step_key(key), key
        else:
            raw_key, fresh_key = jax.random.split(key)  # as gymnax splits it
        raw = env.step_env(raw_key, state, action, params)[0]
        fresh = env.reset_env(fresh_key, params)
        final = info["final_observation"]
        return new, (observation, final, new, action, reward, terminated, truncated, raw, fresh)

    def episode(key):
        reset_key, steps_key = jax.random.split(key)
        first, state = env.reset(reset_key, params)
        return first, jax.lax.scan(step, state, jax.random.split(steps_key, num_steps))[1]

    return jax.vmap(episode, out_axes=(0, 1))(keys)


def play(env, params, seed: int, num_steps: int, batch: int = 3, prng: str | None = None) -> Played:
    keys = jax.random.split(jax.random.key(seed, impl=prng), batch)
    first, rest = _play(env, params, keys, num_steps)
    return jax.tree.map(_numbers, Played(first, *rest))


def _numbers(leaf) -> np.ndarray:
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)  # which some suites keep in their state
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def assert_in_space(space, value) -> None:
    """`value`, with any leading axes, has the type, shape and range of `space`."""
    if isinstance(space, Dict | Tuple):
        parts = space.spaces.items() if isinstance(space, Dict) else enumerate(space.spaces)
        assert len(value) == len(space.spaces)
        for key, part in parts:
            assert_in_space(part, value[key])
        return
    assert_shaped_like_space(space, value)
    low, high = bounds(space)
    assert (value >= low).all(), (space, np.min(value))
    assert (value <= high).all(), (space, np.max(value))


def assert_shaped_like_space(space, value) -> None:
    assert value.dtype == jnp.dtype(space.dtype)
    assert value.shape[value.ndim - len(space.shape) :] == tuple(space.shape)


def bounds(space):
    if isinstance(space, Box):
        return np.asarray(space.low), np.asarray(space.high)
    assert isinstance(space, Discrete | MultiDiscrete)
    return 0, (space.n if isinstance(space, Discrete) else np.array(space.sizes)) - 1
