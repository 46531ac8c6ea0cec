"""Whole episodes of a memory task, played by scripts that remember, and what one can earn without remembering."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import precise_jit

from memrl.envs import make_env
from memrl.errors import MemrlError


@partial(precise_jit, static_argnames=("env",))
def _reset(env, params, keys):
    return jax.vmap(env.reset, in_axes=(0, None))(keys, params)


@partial(precise_jit, static_argnames=("env",))
def _step(env, params, keys, state, actions):
    return jax.vmap(env.step, in_axes=(0, 0, 0, None))(keys, state, actions, params)


def play(name, new_policy, batch=32, seed=0, **options):
    """Returns [B] float64 and lengths [B] of one episode each; `new_policy()` maps observations in order to actions.

    Checks on the way that episodes terminate within their horizon, and are never truncated.
    """
    env, params = make_env(name, **options)
    key = jax.random.key(seed)
    observation, state = _reset(env, params, jax.random.split(key, batch))
    policies = [new_policy() for _ in range(batch)]
    total, length, running = np.zeros(batch), np.zeros(batch, int), np.ones(batch, bool)
    for time in range(params.max_steps_in_episode):
        seen = jax.tree.map(np.asarray, observation)
        actions = [
            policy(jax.tree.map(lambda x, i=i: x[i], seen)) if running[i] else 0 for i, policy in enumerate(policies)
        ]
        keys = jax.random.split(jax.random.fold_in(key, time), batch)
        observation, state, reward, terminated, truncated, _ = _step(env, params, keys, state, jnp.array(actions))
        assert not np.any(truncated)
        total += np.where(running, np.asarray(reward, np.float64), 0.0)
        length += running
        running &= ~np.asarray(terminated)
        if not running.any():
            break
    assert not running.any()
    return total, length


def best_reactive_return(name, batch=4000, seed=0, **options) -> float:
    """The best mean return of any map from the present observation to an action, on `batch` episodes.

    For tasks whose actions change neither what is seen nor how long it lasts: each action is played throughout the
    same episodes, and where an observation was seen, the action that paid most there, on the whole, is taken.
    """
    env, params = make_env(name, **options)
    num_actions, horizon = env.action_space(params).n, params.max_steps_in_episode  # pyright: ignore

    @precise_jit
    def episode(key, action):
        first, state = env.reset(key, params)

        def step(carry, key):
            observation, state = carry
            following, state, reward, *_ = env.step(key, state, action, params)
            return (following, state), (observation, reward)

        keys = jax.random.split(jax.random.fold_in(key, 1), horizon)
        return jax.lax.scan(step, (first, state), keys)[1]

    keys = jax.random.split(jax.random.key(seed), batch)
    actions = jnp.arange(num_actions)
    seen, rewards = jax.vmap(lambda a: jax.vmap(lambda k: episode(k, a))(keys))(actions)
    rows = [np.asarray(leaf).reshape(num_actions, batch * horizon, -1) for leaf in jax.tree.leaves(seen)]
    seen = np.concatenate(rows, axis=-1)
    np.testing.assert_array_equal(seen[0], seen[-1])
    _, kind = np.unique(seen[0], axis=0, return_inverse=True)
    paid = [np.bincount(kind, weights=np.ravel(reward)) for reward in np.asarray(rewards, np.float64)]
    return float(np.max(paid, axis=0).sum() / batch)


def refusal(name, **options) -> str:
    """The one line with which `make_env` turns the options down."""
    with pytest.raises(MemrlError) as caught:
        make_env(name, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message
