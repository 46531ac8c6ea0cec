"""Collecting experience: T steps of B environments under the current policy, and cutting it into sequences."""

from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import distrax
import jax
import jax.numpy as jnp
from jax import lax

from memrl.agents.devices import split_environments
from memrl.networks import ActorCritic, repeat_rows
from memrl.types import Array, Key, Observation, State, Trajectory, Transition


class Rollout(NamedTuple):
    """Where B environments and the agent's memory stand between two rollouts."""

    environment: Any  # state of the vectorised environment, leaves [B, ...]
    observation: Observation  # [B, ...]
    reset: Array  # [B] bool, observation is the first of its episode
    memory: State  # leaves [B, ...], before observation is consumed
    episode_return: Array  # [B] of the running episode
    episode_length: Array  # [B] int32


class Episodes(NamedTuple):
    """The episodes that ended during a rollout."""

    ended: Array  # [] int32
    mean_return: Array  # [] NaN when none ended
    mean_length: Array  # [] NaN when none ended


def init_rollout(
    env: Any, env_params: Any, network: ActorCritic, num_envs: int, key: Key, group_size: int = 1
) -> Rollout:
    """B environments at the start of their first episodes; those of a group, side by side, are reset with one key."""
    keys = environment_keys(key, num_envs, group_size)
    observation, environment = jax.vmap(env.reset, (0, None))(keys, env_params)
    rollout = Rollout(
        environment,
        observation,
        jnp.ones(num_envs, bool),
        network.initial_state(num_envs),
        jnp.zeros(num_envs),
        jnp.zeros(num_envs, jnp.int32),
    )
    return split_environments(rollout)


def collect(
    env: Any,
    env_params: Any,
    network: ActorCritic,
    see: Callable[[Observation], Observation],
    rollout: Rollout,
    key: Key,
    num_steps: int,
    chunk_length: int,
    choose: Callable[[Rollout, distrax.Distribution, Key], Array] | None = None,
    group_size: int = 1,
    prefix: int = 0,
) -> tuple[Rollout, Trajectory, Episodes]:
    """Takes `num_steps` steps in every environment.

    Args:
        env: a gymnax environment.
        env_params: its parameters.
        network: policy, value and memory.
        see: what the network sees of an observation (its normalisation); the trajectory keeps the observation itself.
        rollout: where to start.
        key: each environment's randomness derives from its index, so that results do not depend on how B is split.
        num_steps: T.
        chunk_length: C, a divisor of T; the memory's state is kept at the start of each chunk.
        choose: the actions [B, ...], of where the environments are, their policies and keys [B]; drawn from the
            policies when not given.
        group_size: G, environments side by side that see the same in the first steps of each chunk.
        prefix: how many steps; the network then sees them once per group, as in `memrl.networks.unroll_groups`.
    """
    num_envs = rollout.reset.shape[0]

    def step(rows: int, carry: tuple[Rollout, Array | None], inputs: tuple[Array, Key]):
        """`rows` see the same; the memory of one of them stands for all."""
        t, (action_keys, env_keys) = inputs
        rollout, _ = carry
        seen = jax.tree.map(lambda x: x[::rows], (see(rollout.observation), rollout.reset))
        memory, output = network.step(rollout.memory, *seen)
        output = repeat_rows(output, rows)
        action = (choose or sample)(rollout, output.policy, action_keys)
        observation, environment, reward, terminated, truncated, info = jax.vmap(env.step, (0, 0, 0, None))(
            env_keys, rollout.environment, network.environment_action(action), env_params
        )
        truncated = truncated & ~terminated

        def value_of_what_follows():
            following = see(info["final_observation"])
            return network.step(repeat_rows(memory, rows), following, jnp.zeros(num_envs, bool))[1].value

        next_value = None
        if output.value is not None:
            # Where the rollout ends, every episode that goes on is cut in the same way as by truncation.
            wanted = any_of_all_seeds(truncated) | (t == num_steps - 1)
            next_value = lax.cond(wanted, value_of_what_follows, lambda: jnp.zeros(num_envs))
        transition = Transition(
            observation=rollout.observation,
            reset=rollout.reset,
            action=action,
            log_prob=jnp.asarray(output.policy.log_prob(action)),
            value=output.value,
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            final_value=None if next_value is None else jnp.where(truncated, next_value, 0),
        )
        done = terminated | truncated
        episode_return, episode_length = rollout.episode_return + reward, rollout.episode_length + 1
        rollout = Rollout(
            environment,
            observation,
            done,
            memory,
            jnp.where(done, 0, episode_return),
            jnp.where(done, 0, episode_length),
        )
        return (rollout, next_value), (transition, episode_return, episode_length)

    def chunk(carry: tuple[Rollout, Array | None], inputs: tuple[Array, Key]):
        start = carry[0].memory
        if not prefix:
            carry, steps = lax.scan(partial(step, 1), carry, inputs)
            return carry, (start, steps)
        first, rest = (jax.tree.map(itemgetter(part), inputs) for part in (slice(prefix), slice(prefix, None)))
        rollout, value = carry
        leaders = rollout._replace(memory=jax.tree.map(lambda x: x[::group_size], start))
        (rollout, value), first_steps = lax.scan(partial(step, group_size), (leaders, value), first)
        rollout = rollout._replace(memory=repeat_rows(rollout.memory, group_size))
        carry, steps = lax.scan(partial(step, 1), (rollout, value), rest)
        return carry, (start, jax.tree.map(lambda *parts: jnp.concatenate(parts), first_steps, steps))

    inputs = jnp.arange(num_steps), _step_keys(key, num_steps, num_envs)
    inputs = jax.tree.map(lambda x: x.reshape(-1, chunk_length, *x.shape[1:]), inputs)
    no_value = None if network.value is None else jnp.zeros(num_envs)
    (rollout, last_value), (chunk_states, steps) = lax.scan(chunk, (rollout, no_value), inputs)
    transitions, returns, lengths = jax.tree.map(lambda x: x.reshape(num_steps, *x.shape[2:]), steps)
    trajectory = Trajectory(transitions, chunk_states, last_value)
    return rollout, trajectory, _ended(transitions.terminated | transitions.truncated, returns, lengths)


def sample(rollout: Rollout, policy: distrax.Distribution, keys: Key) -> Array:
    """Actions [B, ...] from the policies of B environments."""
    del rollout
    return jax.vmap(lambda one, key: one.sample(seed=key))(policy, keys)


def environment_keys(key: Key, num_envs: int, group_size: int = 1) -> Key:
    """A key per environment, [B], derived from the environment's index, or from that of its group."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(num_envs) // group_size)


def _step_keys(key: Key, num_steps: int, num_envs: int) -> Key:
    """Two keys per step and environment, [T, 2, B]. One call: each use of threefry costs 0.2 s to compile."""
    keys = environment_keys(key, num_envs)
    step_keys = jax.vmap(lambda i: jax.vmap(jax.random.fold_in, (0, None))(keys, i))(jnp.arange(2 * num_steps))
    return step_keys.reshape(num_steps, 2, num_envs)


@jax.custom_batching.custom_vmap
def any_of_all_seeds(flags: Array) -> Array:
    """Whether any flag is set, also across a `vmap` over seeds, so that a `cond` on it stays a branch under `vmap`."""
    return jnp.any(flags)


@any_of_all_seeds.def_vmap
def _any_of_all_seeds_vmap(axis_size: int, in_batched: list[bool], flags: Array) -> tuple[Array, bool]:
    del axis_size, in_batched
    return any_of_all_seeds(flags), False


def _ended(done: Array, returns: Array, lengths: Array) -> Episodes:
    count = jnp.sum(done, dtype=jnp.int32)

    def mean(x):
        return jnp.where(count > 0, jnp.sum(x, where=done) / jnp.maximum(count, 1), jnp.nan)

    return Episodes(count, mean(returns), mean(lengths.astype(jnp.float32)))


def to_sequences(x: Array, chunk_length: int) -> Array:
    """[T, B, ...] as [C, K, ...]: the K = B (T / C) contiguous sequences of C steps, all those of an environment first.

    So what is split over devices by its environments stays where it is.
    """
    T, B = x.shape[:2]
    x = x.reshape(T // chunk_length, chunk_length, B, *x.shape[2:])
    return jnp.moveaxis(x, 0, 2).reshape(chunk_length, B * (T // chunk_length), *x.shape[3:])
