"""Wrappers: environments made of an environment. They compose in any order.

Each is a frozen dataclass that sees its inner environment through the `Environment` protocol alone. The inner
`step` resets itself, so where an episode ends, a wrapper must treat two observations: the one that starts the
next episode, which `step` returns, and the one that ended the last, in `info["final_observation"]`.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp

from memrl.envs.base import Environment, EnvParams, EnvState, StepResult
from memrl.envs.flatten import flat_space, flatten
from memrl.spaces import Box, Dict, Space
from memrl.types import Array, Key, Observation


@dataclass(frozen=True)
class Wrapper:
    """Passes everything on; subclasses override what they change."""

    env: Environment

    @property
    def name(self) -> str:
        """The inner environment's name."""
        return self.env.name

    @property
    def default_params(self) -> EnvParams:
        """The inner environment's params."""
        return self.env.default_params

    @property
    def answer_actions(self) -> tuple[int, ...]:
        """The inner environment's; see `memrl.envs.base.Task`."""
        return getattr(self.env, "answer_actions", ())

    def observation_space(self, params: EnvParams) -> Space:
        """The inner environment's observation space."""
        return self.env.observation_space(params)

    def action_space(self, params: EnvParams) -> Space:
        """The inner environment's action space."""
        return self.env.action_space(params)

    def reset(self, key: Key, params: EnvParams = None) -> tuple[Observation, EnvState]:
        """The first observation of an episode, and the state behind it."""
        return self.env.reset(key, params)

    def step(self, key: Key, state: EnvState, action: Array, params: EnvParams = None) -> StepResult:
        """Observation, state, reward, terminated, truncated, info."""
        return self.env.step(key, state, action, params)

    def _or_default(self, params: EnvParams) -> EnvParams:
        return self.default_params if params is None else params


def unwrapped(env: Environment) -> Environment:
    """The environment inside all wrappers."""
    while isinstance(env, Wrapper):
        env = env.env
    return env


class StatisticsState(NamedTuple):
    """The inner state, and sums over the running and the last finished episode."""

    env_state: EnvState
    episode_return: Array  # float32, rewards so far in the running episode
    episode_length: Array  # int32, steps so far in the running episode
    returned_return: Array  # float32, of the last finished episode; 0 before there is one
    returned_length: Array  # int32, of the last finished episode; 0 before there is one


@dataclass(frozen=True)
class EpisodeStatistics(Wrapper):
    """Undiscounted return and length of episodes, kept in the state.

    On the very step on which an episode ends, `returned_return` and `returned_length` are already those of
    that episode, and the running sums are zero again.
    """

    def reset(self, key: Key, params: EnvParams = None) -> tuple[Observation, StatisticsState]:
        """Starts with all sums at zero."""
        observation, env_state = self.env.reset(key, params)
        return observation, StatisticsState(
            env_state,
            episode_return=jnp.zeros((), jnp.float32),
            episode_length=jnp.zeros((), jnp.int32),
            returned_return=jnp.zeros((), jnp.float32),
            returned_length=jnp.zeros((), jnp.int32),
        )

    def step(
        self, key: Key, state: StatisticsState, action: Array, params: EnvParams = None
    ) -> tuple[Observation, StatisticsState, Array, Array, Array, dict]:
        """Adds the step to the sums."""
        observation, env_state, reward, terminated, truncated, info = self.env.step(
            key, state.env_state, action, params
        )
        done = terminated | truncated
        total = state.episode_return + reward
        length = state.episode_length + 1
        state = StatisticsState(
            env_state,
            episode_return=jnp.where(done, 0.0, total),
            episode_length=jnp.where(done, 0, length),
            returned_return=jnp.where(done, total, state.returned_return),
            returned_length=jnp.where(done, length, state.returned_length),
        )
        return observation, state, reward, terminated, truncated, info


@dataclass(frozen=True)
class PreviousStep(Wrapper):
    """Adds to the observation what led to it: an agent that sees little may need its own last action.

    The observation becomes a dict of "observation" and, where asked for, "previous_action" (one-hot float32
    for Discrete and MultiDiscrete actions, as it is for Box), "previous_reward" [1] float32 and "start" [1]
    float32, which is 1 on the first observation of an episode and else 0. On the first observation action and
    reward are zeros. The final observation of an episode holds the action and the reward of its last step.
    """

    action: bool = True
    reward: bool = False
    start: bool = False

    def observation_space(self, params: EnvParams) -> Dict:
        """A Dict with the keys that were asked for."""
        unbounded = Box(-jnp.inf, jnp.inf, (1,), jnp.float32)
        flag = Box(0.0, 1.0, (1,), jnp.float32)
        return Dict(self._select(self.env.observation_space(params), self._action_box(params), unbounded, flag))

    def reset(self, key: Key, params: EnvParams = None) -> tuple[Observation, EnvState]:
        """The first observation, after no action and no reward."""
        params = self._or_default(params)
        observation, state = self.env.reset(key, params)
        no_action = jnp.zeros(self._action_box(params).shape, jnp.float32)
        return self._observation(observation, no_action, jnp.zeros(()), jnp.ones((), bool)), state

    def step(self, key: Key, state: EnvState, action: Array, params: EnvParams = None) -> StepResult:
        """Observes this action and reward, or where an episode begins, none."""
        params = self._or_default(params)
        observation, state, reward, terminated, truncated, info = self.env.step(key, state, action, params)
        final = self.observe(info["final_observation"], action, reward, jnp.zeros((), bool), params)
        observation = self.observe(observation, action, reward, terminated | truncated, params)
        info = {**info, "final_observation": final}
        return observation, state, reward, terminated, truncated, info

    def observe(self, observation: Observation, action: Array, reward: Array, start: Array, params: EnvParams) -> dict:
        """What an agent sees of an inner observation that `action` and `reward` led to, or that is a `start`."""
        action = self._encode(action, params)
        return self._observation(observation, jnp.where(start, 0.0, action), jnp.where(start, 0.0, reward), start)

    def _observation(self, observation: Observation, action: Array, reward: Array, start: Array) -> dict:
        reward, start = (jnp.reshape(x, (1,)).astype(jnp.float32) for x in (reward, start))
        return self._select(observation, action, reward, start)

    def _select(self, observation: Any, action: Any, reward: Any, start: Any) -> dict[str, Any]:
        """The parts that were asked for: values, or their spaces."""
        parts = {"observation": observation}
        if self.action:
            parts["previous_action"] = action
        if self.reward:
            parts["previous_reward"] = reward
        if self.start:
            parts["start"] = start
        return parts

    def _encode(self, action: Array, params: EnvParams) -> Array:
        space = self.env.action_space(params)
        return jnp.asarray(action, jnp.float32) if isinstance(space, Box) else flatten(space, action)

    def _action_box(self, params: EnvParams) -> Box:
        """The space of an encoded action, zero included."""
        space = self.env.action_space(params)
        if not isinstance(space, Box):
            return flat_space(space)
        return Box(jnp.minimum(space.low, 0.0), jnp.maximum(space.high, 0.0), space.shape, jnp.float32)


@dataclass(frozen=True)
class FlattenObservation(Wrapper):
    """The observation as one float32 vector [D]: see `memrl.envs.flatten`."""

    def observation_space(self, params: EnvParams) -> Box:
        """A Box [D]."""
        return flat_space(self.env.observation_space(params))

    def reset(self, key: Key, params: EnvParams = None) -> tuple[Array, EnvState]:
        """The first observation, flat."""
        params = self._or_default(params)
        observation, state = self.env.reset(key, params)
        return flatten(self.env.observation_space(params), observation), state

    def step(self, key: Key, state: EnvState, action: Array, params: EnvParams = None) -> StepResult:
        """The next observation and the final one, both flat."""
        params = self._or_default(params)
        observation, state, reward, terminated, truncated, info = self.env.step(key, state, action, params)
        space = self.env.observation_space(params)
        info = {**info, "final_observation": flatten(space, info["final_observation"])}
        return flatten(space, observation), state, reward, terminated, truncated, info
