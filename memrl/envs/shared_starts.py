"""Copies of an environment that start alike, as often as they start."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from memrl.envs.base import EnvParams, EnvState, StepResult, Task
from memrl.envs.compute_where import compute_where
from memrl.envs.wrappers import Wrapper, unwrapped
from memrl.errors import check
from memrl.types import Array, Key, Observation, PyTree


class SharedStartsState(NamedTuple):
    """The inner state, and what copies have in common that were reset with the same key."""

    env_state: EnvState
    key: Key  # of all episodes
    episode: Array  # int32, episodes that have ended
    time: Array  # int32, steps of the running episode

    def step_key(self, use: int) -> Key:
        """A key for this step of this episode, the same in all copies; see `episode_key`."""
        return jax.random.fold_in(self.episode_key(use), self.time)

    def episode_key(self, use: int) -> Key:
        """A key for this episode, the same in all copies; `use` tells uses apart, of which 0 and 1 are taken."""
        return episode_key(self.key, self.episode, use)


def episode_key(key: Key, episode: Array, use: int) -> Key:
    """See `SharedStartsState.episode_key`."""
    return jax.random.fold_in(jax.random.fold_in(key, episode), use)


_START, _NOISE = 0, 1  # uses of an episode's keys


@dataclass(frozen=True)
class SharedStarts(Wrapper):
    """The n-th episode of a copy starts as the n-th episode of every copy that was reset with the same key.

    What the inner reset draws, be it a cue, hidden odds or a starting state, is thus shared, however long the copies'
    episodes last. With `shared_noise` chance within the steps is shared as well: then copies differ in what their
    actions make different.
    """

    shared_noise: bool = True

    def __post_init__(self) -> None:
        """Raises `MemrlError` for an environment on the host, whose copies cannot start where others did."""
        on_host = getattr(unwrapped(self.env), "on_host", False)
        check(not on_host, f"{self.name} runs on the host, expected an environment whose starts can be shared")

    def reset(self, key: Key, params: EnvParams = None) -> tuple[Observation, SharedStartsState]:
        """Starts the first episode."""
        zero = jnp.zeros((), jnp.int32)
        observation, env_state = self._start(key, zero, self._or_default(params))
        return observation, SharedStartsState(env_state, key, zero, zero)

    def step(self, key: Key, state: SharedStartsState, action: Array, params: EnvParams = None) -> StepResult:
        """A step, and where it ends the episode, the start of the next that the copies share."""
        params = self._or_default(params)
        env_key = state.step_key(_NOISE) if self.shared_noise else key
        observation, env_state, reward, terminated, truncated, info = self.env.step(
            env_key, state.env_state, action, params
        )
        done = terminated | truncated
        episode = state.episode + done
        observation, env_state = self._start_where(done, state.key, episode, params, (observation, env_state))
        state = SharedStartsState(env_state, state.key, episode, jnp.where(done, 0, state.time + 1))
        return observation, state, reward, terminated, truncated, info

    def _start(self, key: Key, episode: Array, params: EnvParams) -> tuple[Observation, EnvState]:
        return self.env.reset(episode_key(key, episode, _START), params)

    def _start_where(self, done: Array, key: Key, episode: Array, params: EnvParams, otherwise: PyTree) -> PyTree:
        task = unwrapped(self.env)
        if isinstance(task, Task) and task.costly_reset:
            return compute_where(done, self._start, (key, episode, params), otherwise)
        return jax.tree.map(lambda new, old: jnp.where(done, new, old), self._start(key, episode, params), otherwise)
