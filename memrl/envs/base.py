"""What the rest of the library asks of an environment, and the base class of its own."""

from typing import Any, Protocol, TypeAlias

import jax.numpy as jnp
from gymnax.environments import environment

from memrl.spaces import Space
from memrl.types import Array, Key, Observation, PyTree

EnvState: TypeAlias = PyTree
EnvParams: TypeAlias = PyTree
StepResult: TypeAlias = tuple[Observation, EnvState, Array, Array, Array, dict[str, Any]]


class Environment(Protocol):
    """One environment, not a batch: `jax.vmap` its methods for B of them.

    Every gymnax environment satisfies this, and so does every wrapper.
    """

    @property
    def name(self) -> str:
        """A name for people."""
        ...

    @property
    def default_params(self) -> EnvParams:
        """The numbers of the task that need no recompilation when they change."""
        ...

    def observation_space(self, params: EnvParams) -> Space:
        """What `reset` and `step` may return as observation."""
        ...

    def action_space(self, params: EnvParams) -> Space:
        """What `step` takes as action."""
        ...

    def reset(self, key: Key, params: EnvParams = None) -> tuple[Observation, EnvState]:
        """The first observation of an episode, and the state behind it."""
        ...

    def step(self, key: Key, state: EnvState, action: Array, params: EnvParams = None) -> StepResult:
        """Observation, state, reward float32, terminated bool, truncated bool, info.

        Where an episode ends, observation and state are those of the next one, and
        `info["final_observation"]` holds the observation that ended it.
        """
        ...


class Task(environment.Environment):
    """gymnax's `Environment`, whose `reset` and `step` build on the `reset_env` and `step_env` of a subclass.

    Subclasses are frozen dataclasses: equal ones share one compiled program.
    """

    @property
    def default_params(self) -> EnvParams:
        """The params of the task as published."""
        raise NotImplementedError

    def check_params(self, params: EnvParams) -> None:
        """Raises `MemrlError` for params out of range; called when an environment is made."""

    def reset_env(self, key: Key, params: EnvParams) -> tuple[Observation, EnvState]:
        """The first observation of an episode, and the state behind it."""
        raise NotImplementedError

    def step_env(
        self, key: Key, state: EnvState, action: Any, params: EnvParams
    ) -> tuple[Observation, EnvState, Array, Array, dict[Any, Any]]:
        """Observation, state, reward float32, terminated bool, info; no automatic reset."""
        raise NotImplementedError

    def is_truncated(self, state: EnvState, params: EnvParams) -> Array:
        """Whether a time limit from outside the task has cut the episode; by default never."""
        return jnp.zeros((), bool)

    def observation_space(self, params: EnvParams) -> Space:
        """What `reset` and `step` may return as observation."""
        raise NotImplementedError

    def action_space(self, params: EnvParams) -> Space:
        """What `step` takes as action."""
        raise NotImplementedError
