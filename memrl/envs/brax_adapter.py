"""Brax's locomotion tasks, seen whole or without velocities or positions (Freeman et al. 2021; Ni et al. 2022).

env, params = memrl.make_env("brax/halfcheetah", observe="position", backend="spring")
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from brax import envs as brax_envs  # pyright: ignore[reportMissingImports]
from flax import struct

from memrl.envs.base import EnvState, FixedLength, Task, strong
from memrl.envs.options import with_options
from memrl.errors import check, unknown_name
from memrl.spaces import Box
from memrl.types import Array, Key

BACKENDS = ("generalized", "mjx", "positional", "spring")
OBSERVED = ("all", "position", "velocity")
# "fast" is for Brax's own tests; the fluid of "swimmer" needs an older JAX than ours (Brax 0.14.2).
IDS = tuple(name for name in brax_envs._envs if name not in ("fast", "swimmer"))


@struct.dataclass
class BraxState:
    """Brax's state, and a clock."""

    brax: Any
    time: Array  # int32 []


@dataclass(frozen=True)
class BraxAdapter(Task):
    """A Brax environment. Observation: float32 [n], what is left of Brax's; actions: Box of [-1, 1]."""

    brax_id: str
    observe: str
    backend: str
    max_steps_in_episode: int

    @property
    def name(self) -> str:
        """Brax's id."""
        return self.brax_id

    @cached_property
    def _env(self) -> Any:
        with jax.ensure_compile_time_eval():  # it holds arrays, and may be made while a program is traced
            return brax_envs.get_environment(self.brax_id, backend=self.backend)

    @cached_property
    def _seen(self) -> np.ndarray:
        """Indices into Brax's observation."""
        size = jax.eval_shape(self._env.reset, jax.random.key(0)).obs.shape[-1]
        kinds = observation_kinds(self.brax_id, self._env.sys, size)
        return np.arange(size) if self.observe == "all" else np.flatnonzero(kinds == self.observe)

    @property
    def default_params(self) -> FixedLength:
        """The time limit."""
        return FixedLength(self.max_steps_in_episode)

    def observation_space(self, params: FixedLength) -> Box:
        """Unbounded."""
        del params
        return Box(-jnp.inf, jnp.inf, self._seen.shape, jnp.float32)

    def action_space(self, params: FixedLength) -> Box:
        """Brax scales actions to each actuator's range."""
        del params
        return Box(-1.0, 1.0, (self._env.action_size,), jnp.float32)

    def reset_env(self, key: Key, params: FixedLength) -> tuple[Array, EnvState]:
        """A new start, where Brax's own automatic reset would return to the first."""
        del params
        state = BraxState(strong(self._env.reset(key)), jnp.zeros((), jnp.int32))
        return self._observation(state), state

    def step_env(
        self, key: Key, state: BraxState, action: Array, params: FixedLength
    ) -> tuple[Array, EnvState, Array, Array, dict[Any, Any]]:
        """Brax's step; its `done` is a fall, never a time limit. Info holds its metrics."""
        del key, params
        state = BraxState(strong(self._env.step(state.brax, action)), state.time + 1)
        return self._observation(state), state, state.brax.reward, state.brax.done > 0, dict(state.brax.metrics)

    def is_truncated(self, state: BraxState, params: FixedLength) -> Array:
        """Whether the time limit has been reached."""
        return state.time >= params.max_steps_in_episode

    def _observation(self, state: BraxState) -> Array:
        return state.brax.obs[self._seen]


def observation_kinds(brax_id: str, system: Any, size: int) -> np.ndarray:
    """For each of `size` entries of Brax's observation "position", "velocity" or "force"."""
    position, velocity, force = "position", "velocity", "force"
    if brax_id == "reacher":  # angles, target, tip's velocity, way to the target
        layout = [(position, 6), (velocity, 2), (position, 3)]
    elif brax_id == "pusher":  # joints, tip, object, goal
        layout = [(position, 7), (velocity, 7), (position, 9)]
    elif brax_id in ("humanoid", "humanoidstandup"):  # joints, inertia and velocity of the links, motors
        links = system.num_links()
        joints = [(position, system.q_size() - 2), (velocity, system.qd_size())]
        layout = [*joints, (position, 10 * links), (velocity, 6 * links), (force, system.qd_size())]
    else:
        layout = [(position, size - system.qd_size()), (velocity, system.qd_size())]
    names, counts = zip(*layout, strict=True)
    kinds = np.repeat(names, counts)
    assert len(kinds) == size, f"Brax's observation of {brax_id} has {size} entries, not {len(kinds)}"
    return kinds


def brax_constructor(brax_id: str) -> Callable[..., BraxAdapter]:
    """Makes `brax_id`.

    Raises:
        MemrlError: for an id that is none of `IDS`.
    """
    if brax_id not in IDS:
        raise unknown_name("environment", f"brax/{brax_id}", [f"brax/{name}" for name in IDS])

    def construct(observe: str, backend: str, max_steps_in_episode: int) -> BraxAdapter:
        check(observe in OBSERVED, f"observe of {brax_id} is {observe!r}, expected one of {', '.join(OBSERVED)}")
        check(backend in BACKENDS, f"backend of {brax_id} is {backend!r}, expected one of {', '.join(BACKENDS)}")
        limit = max_steps_in_episode
        check(limit >= 1, f"max_steps_in_episode of {brax_id} is {limit}, expected at least 1")
        return BraxAdapter(brax_id, observe, backend, limit)

    return with_options(construct, {"observe": "all", "backend": "generalized", "max_steps_in_episode": 1000})
