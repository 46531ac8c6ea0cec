"""POPGym Arcade: ten games in pixels, each seen whole or in part (Wang et al. 2025).

    env, params = memrl.make_env("arcade/CartPoleEasy", partial_obs=False)

The package depends on a fork of gymnax that overwrites gymnax itself: install it without its dependencies.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import popgym_arcade  # pyright: ignore[reportMissingImports]
from popgym_arcade.registration import REGISTERED_ENVIRONMENTS  # pyright: ignore[reportMissingImports]

from memrl.envs.base import EnvState, FixedLength, Task, strong
from memrl.envs.options import with_options
from memrl.errors import check, unknown_name
from memrl.spaces import Box, Discrete
from memrl.types import Array, Key

_UNLIMITED = 2**30  # steps; a power of two, so that dividing by it loses nothing


@dataclass(frozen=True)
class ArcadeAdapter(Task):
    """A game of POPGym Arcade. Observation: the screen, uint8 [size, size, 3]; 4 or 5 actions.

    The games count their time limit as an end of the game, some of them also where they report the two apart; one
    (Battleship) reports a victory late. Here the limit is lifted from the game and kept by the adapter, and what
    ends a game is then its end.
    """

    arcade_id: str
    partial_obs: bool
    obs_size: int
    max_steps_in_episode: int

    @property
    def name(self) -> str:
        """POPGym Arcade's id."""
        return self.arcade_id

    @cached_property
    def _game(self) -> Any:
        with jax.ensure_compile_time_eval():  # it holds arrays, and may be made while a program is traced
            game, _ = popgym_arcade.make(self.arcade_id, partial_obs=self.partial_obs, obs_size=self.obs_size)
        setattr(game, _limit_field(game), _UNLIMITED)
        game.discount = lambda state, params: jnp.ones(())  # gymnax's own needs a method that games lack
        return game

    @property
    def default_params(self) -> FixedLength:
        """The time limit; rewards are scaled by the published one."""
        return FixedLength(self.max_steps_in_episode)

    def observation_space(self, params: FixedLength) -> Box:
        """Colours."""
        del params
        return Box(0, 255, (self.obs_size, self.obs_size, 3), jnp.uint8)

    def action_space(self, params: FixedLength) -> Discrete:
        """Up, down, left, right, fire; not every game uses all."""
        del params
        return Discrete(self._game.action_space(self._game.default_params).n)

    def reset_env(self, key: Key, params: FixedLength) -> tuple[Array, EnvState]:
        """A new game."""
        del params
        screen, state = self._game.reset_env(key, self._game.default_params)
        return screen, strong(state)

    def step_env(
        self, key: Key, state: EnvState, action: Array, params: FixedLength
    ) -> tuple[Array, EnvState, Array, Array, dict[Any, Any]]:
        """The game's step without its time limit."""
        del params
        screen, state, reward, terminated, _ = self._game.step_env(key, state, action, self._game.default_params)
        if "CartPole" in self.arcade_id:  # pays 1 / limit as it steps, the others scale as they are made
            reward = reward * (_UNLIMITED / published_limit(self.arcade_id))
        return screen, strong(state), jnp.asarray(reward, jnp.float32), jnp.asarray(terminated, bool), {}

    def is_truncated(self, state: Any, params: FixedLength) -> Array:
        """Whether the time limit has been reached."""
        return _clock(state) >= params.max_steps_in_episode


def published_limit(arcade_id: str) -> int:
    """The time limit that comes with `arcade_id`."""
    game, _ = popgym_arcade.make(arcade_id)
    return getattr(game, _limit_field(game))


def arcade_constructor(arcade_id: str) -> Callable[..., ArcadeAdapter]:
    """Makes `arcade_id`.

    Raises:
        MemrlError: for an id that POPGym Arcade does not know.
    """
    if arcade_id not in REGISTERED_ENVIRONMENTS:
        raise unknown_name("environment", f"arcade/{arcade_id}", [f"arcade/{name}" for name in REGISTERED_ENVIRONMENTS])

    def construct(partial_obs: bool, obs_size: int, max_steps_in_episode: int) -> ArcadeAdapter:
        check(obs_size in (128, 256), f"obs_size of {arcade_id} is {obs_size}, expected 128 or 256")
        limit = max_steps_in_episode
        check(limit >= 1, f"max_steps_in_episode of {arcade_id} is {limit}, expected at least 1")
        return ArcadeAdapter(arcade_id, partial_obs, obs_size, limit)

    defaults = {"partial_obs": True, "obs_size": 128, "max_steps_in_episode": published_limit(arcade_id)}
    return with_options(construct, defaults)


def _limit_field(game: Any) -> str:
    return "max_episode_length" if hasattr(game, "max_episode_length") else "max_steps_in_episode"


def _clock(state: Any) -> Array:
    """The steps of this episode: CountRecall's `timestep` counts cards."""
    name = next(name for name in ("alreadyMove", "timestep", "time") if hasattr(state, name))
    return getattr(state, name)
