"""Environments of Gymnasium, stepped on the host from inside the compiled loop.

    env, params = memrl.make_env("gymnasium/CartPole-v1")

One callback steps all the copies that `vmap` makes, one after another, also where seeds are `vmap`ped too. What JAX
carries of a copy is a handle and a count of its steps. A pure function may be computed again, an environment on the
host cannot: see `memrl.envs.host`.
"""

import importlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any, ClassVar

import gymnasium
import jax
import jax.numpy as jnp
from flax import struct
from gymnasium.envs.registration import EnvSpec, load_env_creator
from jax.custom_batching import custom_vmap
from jax.experimental import io_callback

from memrl.envs.base import EnvParams, FixedLength, StepResult, Task, step_key
from memrl.envs.gymnasium_spaces import from_jax, space_of, to_jax
from memrl.envs.host import HostCopies
from memrl.envs.options import INT32_MAX, constructor_options, with_options
from memrl.errors import MemrlError, check, unknown_name
from memrl.spaces import Space
from memrl.types import Array, Key, Observation, PyTree

# JAX logs the traceback of whatever a callback raises. These errors say it all in the line that they carry.
logging.getLogger("jax._src.callback").addFilter(
    lambda record: not (record.exc_info and isinstance(record.exc_info[1], MemrlError))
)


@struct.dataclass
class HostState:
    """What JAX knows of one copy on the host."""

    handle: Array  # [] int32, which copy
    count: Array  # [] int32, its steps since `reset`


@dataclass(frozen=True)
class GymnasiumAdapter(Task):
    """A Gymnasium environment; the time limit is its registered one, unless options say otherwise."""

    on_host: ClassVar[bool] = True

    gymnasium_id: str
    max_steps_in_episode: int  # INT32_MAX where Gymnasium sets no limit
    options: tuple[tuple[str, Any], ...] = ()  # the environment's own, sorted

    @property
    def name(self) -> str:
        """Gymnasium's id."""
        return self.gymnasium_id

    @property
    def default_params(self) -> FixedLength:
        """The time limit; Gymnasium's own parameters are fixed when an environment is made."""
        return FixedLength(self.max_steps_in_episode)

    @cached_property
    def _spaces(self) -> tuple[gymnasium.Space, gymnasium.Space]:
        env = self.make_host()
        env.close()
        return env.observation_space, env.action_space

    def observation_space(self, params: EnvParams) -> Space:
        """Gymnasium's, in the types that JAX has: float64 becomes float32, int64 becomes int32."""
        del params
        return space_of(self._spaces[0], f"observation space of {self.name}")

    def action_space(self, params: EnvParams) -> Space:
        """Gymnasium's; a Discrete space counts from 0, whatever its start."""
        del params
        return space_of(self._spaces[1], f"action space of {self.name}")

    def make_host(self) -> gymnasium.Env:
        """A new copy on the host."""
        limit = -1 if self.max_steps_in_episode == INT32_MAX else self.max_steps_in_episode
        return gymnasium.make(
            self.gymnasium_id, max_episode_steps=limit, disable_env_checker=True, **dict(self.options)
        )

    @partial(jax.jit, static_argnames=("self",))
    def reset(self, key: Key, params: EnvParams = None) -> tuple[Observation, HostState]:
        """Makes a new copy on the host, whose first episode is seeded by `host_seed(key)`."""
        handle, observation = _on_host(
            _host_copies(self).reset, (jnp.int32(0), self._empty_observation(params)), host_seed(key)
        )
        return observation, HostState(handle, jnp.int32(0))

    @partial(jax.jit, static_argnames=("self",))
    def step(self, key: Key, state: HostState, action: Array, params: EnvParams = None) -> StepResult:
        """One step on the host; an episode that follows is seeded by `host_seed(key)`."""
        empty = self._empty_observation(params)
        flag = jnp.zeros((), bool)
        count, observation, final, reward, terminated, truncated = _on_host(
            _host_copies(self).step,
            (state.count, empty, empty, jnp.float32(0), flag, flag),
            state.handle,
            state.count,
            host_seed(key),
            action,
        )
        info = {"final_observation": final}
        return observation, HostState(state.handle, count), reward, terminated, truncated, info

    def _empty_observation(self, params: EnvParams) -> Observation:
        """Shapes and types of an observation."""
        return jax.eval_shape(self.observation_space(params).sample, jax.random.key(0))


@cache
def _host_copies(adapter: GymnasiumAdapter) -> HostCopies:
    """Equal environments share compiled programs, so that they must share their copies."""
    observed, acted = adapter._spaces
    return HostCopies(
        f"environment 'gymnasium/{adapter.name}'",
        adapter.make_host,
        observe=lambda observation: to_jax(observed, observation),
        act=lambda action: from_jax(acted, action),
    )


def host_seed(key: Key) -> Array:
    """The seed that Gymnasium's `reset` gets: [] int32, 0 to 2**31 - 1."""
    return (jax.random.bits(step_key(key), (), jnp.uint32) >> 1).astype(jnp.int32)


def _on_host(function: Callable[..., Any], one: PyTree, *arguments: PyTree) -> PyTree:
    """`function` on the host, called once for a whole batch.

    Args:
        function: takes and returns arrays with a leading axis of copies.
        one: shapes and types of what it returns for one copy.
        *arguments: of one copy.
    """

    @custom_vmap
    def call(*arguments: PyTree) -> PyTree:
        copies = jax.tree.leaves(arguments)[0].shape[0]
        result = jax.tree.map(lambda x: jax.ShapeDtypeStruct((copies, *x.shape), x.dtype), one)
        # What a copy's steps return goes into its next step: that orders them, and the effect keeps them all.
        return io_callback(function, result, *arguments, ordered=False)

    @call.def_vmap
    def call_all(size: int, batched: Any, *arguments: PyTree) -> tuple[PyTree, PyTree]:
        def join(x: Array, is_batched: bool) -> Array:
            x = x if is_batched else jnp.broadcast_to(x, (size, *x.shape))
            return x.reshape(-1, *x.shape[2:])

        results = call(*jax.tree.map(join, arguments, tuple(batched)))
        results = jax.tree.map(lambda x: x.reshape(size, -1, *x.shape[1:]), results)
        return results, jax.tree.map(lambda _: True, results)

    return jax.tree.map(lambda x: x[0], call(*jax.tree.map(lambda x: jnp.asarray(x)[None], arguments)))


def gymnasium_constructor(gymnasium_id: str) -> Callable[..., GymnasiumAdapter]:
    """Makes `gymnasium_id`; its signature lists the environment's own options and the time limit.

    Raises:
        MemrlError: for an id that Gymnasium does not know.
    """
    spec = _spec(gymnasium_id)
    registered = spec.max_episode_steps or INT32_MAX
    own = _own_options(spec)

    def construct(max_steps_in_episode: int, **options: Any) -> GymnasiumAdapter:
        limit = max_steps_in_episode
        check(limit >= 1, f"max_steps_in_episode of {gymnasium_id} is {limit}, expected at least 1")
        changed = {name: value for name, value in options.items() if value != own[name]}
        for name, value in changed.items():
            check(_is_hashable(value), f"{name} of {gymnasium_id} is {value!r}, expected a hashable value")
        adapter = GymnasiumAdapter(gymnasium_id, limit, tuple(sorted(changed.items())))
        for space in (adapter.observation_space, adapter.action_space):
            space(None)  # raises now, if it does
        return adapter

    return with_options(construct, {**own, "max_steps_in_episode": registered})


def _spec(gymnasium_id: str) -> EnvSpec:
    """Gymnasium's entry for an id; as with `gymnasium.make`, "module:id" first imports the module that registers it."""
    module, _, registered_id = gymnasium_id.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise MemrlError(
                f"environment 'gymnasium/{gymnasium_id}': {module!r} cannot be imported: {error}"
            ) from error
    if registered_id not in gymnasium.registry:
        known = [f"gymnasium/{name}" for name in gymnasium.registry]
        raise unknown_name("environment", f"gymnasium/{gymnasium_id}", known)
    return gymnasium.registry[registered_id]


def _own_options(spec: EnvSpec) -> Mapping[str, Any]:
    """The options of the environment's class with their defaults, as registered."""
    creator: Any = spec.entry_point if callable(spec.entry_point) else load_env_creator(str(spec.entry_point))
    options = {**constructor_options(creator), **spec.kwargs}
    return {name: value for name, value in options.items() if name not in ("render_mode", "max_steps_in_episode")}


def _is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True
