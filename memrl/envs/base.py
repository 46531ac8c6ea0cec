"""What the rest of the library asks of an environment, and the base class of its own."""

from functools import partial
from typing import Any, ClassVar, Protocol, TypeAlias

import jax
import jax.numpy as jnp
from flax import struct

from memrl.envs.compute_where import compute_where
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


@struct.dataclass
class FixedLength:
    """Params of a task without options, whose longest episode follows from how the environment was made."""

    max_steps_in_episode: int = struct.field(pytree_node=False, metadata={"option": False})


class Task:
    """An environment in the manner of gymnax 1.x: a subclass says how to reset and to step, this resets it by itself.

    Subclasses are frozen dataclasses: equal ones share one compiled program.
    """

    costly_reset: ClassVar[bool] = False
    """Whether a reset costs much more than a step. If so, only the environments whose episode has ended are reset,
    rather than all of them on every step; if not, that is the slower way."""
    on_host: ClassVar[bool] = False
    """Whether the copies live outside of the compiled program."""
    answer_actions: ClassVar[tuple[int, ...]] = ()
    """The actions that end the episode with an answer, at any time, if the task has such and others to wait with."""

    @property
    def name(self) -> str:
        """The name of the class."""
        return type(self).__name__

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
        del state, params
        return jnp.zeros((), bool)

    def observation_space(self, params: EnvParams) -> Space:
        """What `reset` and `step` may return as observation."""
        raise NotImplementedError

    def action_space(self, params: EnvParams) -> Space:
        """What `step` takes as action."""
        raise NotImplementedError

    @partial(jax.jit, static_argnames=("self",))
    def reset(self, key: Key, params: EnvParams = None) -> tuple[Observation, EnvState]:
        """See `Environment.reset`."""
        return self.reset_env(key, self.default_params if params is None else params)

    @partial(jax.jit, static_argnames=("self",))
    def step(self, key: Key, state: EnvState, action: Array, params: EnvParams = None) -> StepResult:
        """See `Environment.step`."""
        params = self.default_params if params is None else params
        final, state, reward, terminated, info = self.step_env(step_key(key), state, action, params)
        truncated = self.is_truncated(state, params)
        done = terminated | truncated
        observation, state = self._start_where(done, key, params, (final, state))
        return observation, state, reward, terminated, truncated, {**info, "final_observation": final}

    def _start_where(self, done: Array, key: Key, params: EnvParams, otherwise: Any) -> Any:
        """Observation and state of a new episode where one has ended."""
        if self.costly_reset:
            return compute_where(done, self.reset_env, (key, params), otherwise)
        return jax.tree.map(lambda new, old: jnp.where(done, new, old), self.reset_env(key, params), otherwise)


def step_key(key: Key) -> Key:
    """What `step_env` draws from, where the reset that may follow draws from `key`."""
    return jax.random.fold_in(key, 2**32 - 2)


def second_key(key: Key) -> Key:
    """A key beside `key`, which may itself be drawn from: unlike a split, it costs nothing where it is not used."""
    return jax.random.fold_in(key, 2**32 - 1)  # further than any array drawn from `key` counts


def strong(state: PyTree) -> PyTree:
    """The same values without weak types, so that they can be carried through `lax.scan`."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), state)
