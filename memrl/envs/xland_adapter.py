"""XLand-MiniGrid: tasks of random rules, and its ports of MiniGrid (Nikulin et al. 2023).

    env, params = memrl.make_env("xland/XLand-MiniGrid-R1-9x9", benchmark="small-1m")
    env, params = memrl.make_env("xland/MiniGrid-MemoryS8")

A benchmark is XLand-MiniGrid's name of a set of rules, which it downloads once, or the path of such a file. Each
episode has rules of its own; `params.replace(rules=...)` takes a part of a benchmark, for training or for a test.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import xminigrid  # pyright: ignore[reportMissingImports]
from flax import struct
from xminigrid import benchmarks  # pyright: ignore[reportMissingImports]
from xminigrid.core.constants import NUM_COLORS, NUM_TILES  # pyright: ignore[reportMissingImports]

from memrl.envs.base import EnvState, Task, second_key, strong
from memrl.envs.options import with_options
from memrl.errors import MemrlError, check, unknown_name
from memrl.spaces import Box, Discrete
from memrl.types import Array, Key


@struct.dataclass
class XLandParams:
    """What an episode of XLand depends on."""

    max_steps_in_episode: int = struct.field(pytree_node=False, metadata={"option": False})
    rules: Any = struct.field(metadata={"option": False})
    """xminigrid's Benchmark; None for the ports of MiniGrid."""


@dataclass(frozen=True)
class XLandAdapter(Task):
    """A grid seen in first person. Observation: tile and colour of each cell in view, uint8 [view, view, 2]."""

    xland_id: str
    benchmark: str | None
    view_size: int
    max_steps_in_episode: int

    @property
    def name(self) -> str:
        """XLand-MiniGrid's id."""
        return self.xland_id

    @cached_property
    def _made(self) -> tuple[Any, Any]:
        with jax.ensure_compile_time_eval():  # params may hold arrays, and may be made while a program is traced
            return xminigrid.make(self.xland_id, view_size=self.view_size, max_steps=self.max_steps_in_episode)

    @property
    def default_params(self) -> XLandParams:
        """The time limit, which also scales the reward, and all rules of the benchmark."""
        rules = None if self.benchmark is None else _load(self.benchmark)
        return XLandParams(self.max_steps_in_episode, rules)

    def observation_space(self, params: XLandParams) -> Box:
        """Tiles and colours by number."""
        del params
        env, params = self._made
        return Box(0, max(NUM_TILES, NUM_COLORS) - 1, env.observation_shape(params), jnp.uint8)

    def action_space(self, params: XLandParams) -> Discrete:
        """XLand-MiniGrid's actions."""
        del params
        env, params = self._made
        return Discrete(env.num_actions(params))

    def reset_env(self, key: Key, params: XLandParams) -> tuple[Array, EnvState]:
        """A new grid, and where there are rules to draw from, new ones."""
        env, made = self._made
        if params.rules is not None:
            made = made.replace(ruleset=params.rules.sample_ruleset(second_key(key)))
        timestep = strong(env.reset(made, key))
        return timestep.observation, timestep

    def step_env(
        self, key: Key, state: Any, action: Array, params: XLandParams
    ) -> tuple[Array, EnvState, Array, Array, dict[Any, Any]]:
        """XLand-MiniGrid's step, which does not reset; its discount is 0 where the task has ended."""
        del key, params  # XLand-MiniGrid keeps a key in its state, and the rules
        env, params = self._made
        timestep = strong(env.step(params, state, action))
        return timestep.observation, timestep, timestep.reward, timestep.discount == 0, {}

    def is_truncated(self, state: Any, params: XLandParams) -> Array:
        """Whether the time limit has been reached."""
        return state.state.step_num >= params.max_steps_in_episode


def xland_constructor(xland_id: str) -> Callable[..., XLandAdapter]:
    """Makes `xland_id`.

    Raises:
        MemrlError: for an id that XLand-MiniGrid does not know.
    """
    known = xminigrid.registered_environments()
    if xland_id not in known:
        raise unknown_name("environment", f"xland/{xland_id}", [f"xland/{name}" for name in known])
    params = xminigrid.make(xland_id)[1]
    defaults = {"view_size": params.view_size, "max_steps_in_episode": params.max_steps}
    if xland_id.startswith("XLand-"):
        defaults = {"benchmark": "trivial-21k", **defaults}

    def construct(view_size: int, max_steps_in_episode: int, benchmark: str | None = None) -> XLandAdapter:
        odd = view_size >= 3 and view_size % 2 == 1
        check(odd, f"view_size of {xland_id} is {view_size}, expected an odd number of at least 3")
        limit = max_steps_in_episode
        check(limit >= 1, f"max_steps_in_episode of {xland_id} is {limit}, expected at least 1")
        if benchmark is not None:
            names = benchmarks.registered_benchmarks()
            here = benchmark in names or Path(benchmark).is_file()
            check(here, f"benchmark of {xland_id} is {benchmark!r}, expected a file or one of {', '.join(names)}")
        return XLandAdapter(xland_id, benchmark, view_size, limit)

    return with_options(construct, defaults)


@lru_cache(maxsize=1)
def _load(benchmark: str) -> Any:
    """xminigrid's Benchmark, of a file or by its name; a name may be downloaded."""
    is_file = Path(benchmark).is_file()
    try:
        with jax.ensure_compile_time_eval():
            rules = (benchmarks.load_benchmark_from_path if is_file else benchmarks.load_benchmark)(benchmark)
            return jax.tree.map(jnp.asarray, rules)
    except (OSError, KeyError, EOFError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise MemrlError(f"the rules of benchmark {benchmark!r} cannot be read: {reason}") from error
