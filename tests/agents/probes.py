"""Tiny environments whose values and best policies are known, so that a failure names the broken part."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from cores.core_references import with_its_source

from memrl import ActorCritic, CoreConfig, GRPOConfig, GRUConfig, NetworkConfig, PPOConfig
from memrl.agents.grpo import GRPO
from memrl.agents.ppo import PPO
from memrl.envs.base import Task
from memrl.envs.shared_starts import SharedStarts
from memrl.spaces import Box, Discrete, MultiDiscrete


class Rewards(NamedTuple):
    """How long an episode lasts, how it ends, and what it pays: numbers, so that one program fits all."""

    steps: int = 1
    cut: bool = False  # the episode is truncated, not terminated
    each: float = 0.0  # on every step
    last: float = 0.0  # on the last step
    cue: float = 0.0  # on the last step, where the cue is 1
    action: float = 0.0  # on the last step, for action 1
    match: float = 0.0  # on the last step, for the action that equals the cue


class ProbeState(NamedTuple):
    time: jax.Array  # int32
    cue: jax.Array  # int32, 0 or 1


@dataclass(frozen=True)
class Probe(Task):
    """Two actions; shows [time, cue] with the cue as -1 or 1 at the start, and 0 from then on."""

    @property
    def default_params(self):
        return Rewards()

    def observation_space(self, params):
        return Box(-1.0, 5.0, (2,))

    def action_space(self, params):
        return Discrete(2)

    def reset_env(self, key, params):
        state = ProbeState(jnp.int32(0), jax.random.bernoulli(key).astype(jnp.int32))
        return self._see(state), state

    def step_env(self, key, state, action, params):
        last = state.time + 1 >= params.steps
        prize = params.last + params.cue * state.cue + params.action * action + params.match * (action == state.cue)
        state = state._replace(time=state.time + 1)
        reward = jnp.float32(params.each + jnp.where(last, prize, 0.0))
        return self._see(state), state, reward, last & ~jnp.asarray(params.cut), {}

    def is_truncated(self, state, params):
        return jnp.asarray(params.cut) & (state.time >= params.steps)

    def _see(self, state):
        cue = jnp.where(state.time == 0, 2 * state.cue - 1, 0)
        return jnp.stack([state.time, cue]).astype(jnp.float32)


@dataclass(frozen=True)
class OneStep(Task):
    """One step, nothing to see; the reward depends on the action alone."""

    @property
    def default_params(self):
        return jnp.zeros(())

    def observation_space(self, params):
        return Box(-1.0, 1.0, (1,))

    def reset_env(self, key, params):
        return jnp.ones(1), jnp.int32(0)

    def step_env(self, key, state, action, params):
        return jnp.ones(1), state, self.reward(action), jnp.ones((), bool), {}

    def reward(self, action):
        raise NotImplementedError


class Target(OneStep):
    """A box of an odd shape: the nearer to (-0.5, 0.5), the better."""

    def action_space(self, params):
        return Box(-1.0, 1.0, (1, 2))

    def reward(self, action):
        return -jnp.sum((action - jnp.array([[-0.5, 0.5]])) ** 2)


class Combination(OneStep):
    """Several discrete actions at once, of unequal sizes: each right one pays."""

    def action_space(self, params):
        return MultiDiscrete([2, 3])

    def reward(self, action):
        return (action[0] == 0) + jnp.float32(action[1] == 2)


class ErraticState(NamedTuple):
    time: jax.Array  # int32
    limit: jax.Array  # int32, where the episode is cut
    cue: jax.Array  # int32


@dataclass(frozen=True)
class Erratic(Task):
    """Episodes of 1 to 6 steps that end in every way: terminated by chance, cut, both at once.

    Everything is random, so that a wrong key or a wrong environment shows.
    """

    @property
    def default_params(self):
        return jnp.float32(0.2)  # the chance to terminate

    def observation_space(self, params):
        return Box(-5.0, 5.0, (2,))

    def action_space(self, params):
        return Discrete(3)

    def reset_env(self, key, params):
        limit, cue, noise = jax.random.uniform(key, (3,))  # one draw: each takes long to compile
        state = ErraticState(jnp.int32(0), 1 + jnp.int32(6 * limit), jnp.int32(3 * cue))
        return self._see(state, noise), state

    def step_env(self, key, state, action, params):
        luck, end, noise = jax.random.uniform(key, (3,))
        reward = (action == state.cue) + luck
        state = state._replace(time=state.time + 1)
        return self._see(state, noise), state, reward, end < params, {}

    def is_truncated(self, state, params):
        return state.time >= state.limit

    def _see(self, state, noise):
        return jnp.stack([jnp.where(state.time == 0, state.cue, 0).astype(jnp.float32), noise])


SMALL = NetworkConfig(features=16, encoder_sizes=(), head_sizes=(16,))


GRU = GRUConfig()


def make_ppo(env, config: PPOConfig, core: CoreConfig = GRU, params=None, num_updates: int = 10) -> PPO:
    params = env.default_params if params is None else params
    return PPO(env, params, network_maker(env, params, core, critic=True), config, num_updates)


def make_grpo(env, config: GRPOConfig, core: CoreConfig = GRU, params=None, num_updates: int = 10) -> GRPO:
    params = env.default_params if params is None else params
    env = SharedStarts(env, shared_noise=config.shared_chance)
    return GRPO(env, params, network_maker(env, params, core, critic=False), config, num_updates)


def network_maker(env, params, core, *, critic):
    spaces = env.observation_space(params), env.action_space(params)

    def make_network(rngs):
        return ActorCritic(*spaces, with_its_source(core), SMALL, critic=critic, rngs=rngs)

    return make_network
