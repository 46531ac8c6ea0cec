"""Passkey: a few digits in a haystack of others, to be recited at the end.

Source: Mohtashami & Jaggi 2023, "Landmark Attention: Random-Access Infinite Context Length for Transformers",
https://arxiv.org/abs/2305.16300, its passkey retrieval, with single symbols in place of sentences.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
from flax import struct

from memrl.envs.base import Task
from memrl.envs.draw import integer_below
from memrl.envs.options import INT32_MAX
from memrl.errors import check
from memrl.spaces import Discrete, Tuple
from memrl.types import Array, Key

HAY, PASSKEY, RECITE = range(3)
NUM_DIGITS = 10
PLACES = ("start", "random")


@struct.dataclass
class PasskeyParams:
    """`length` is the size of the haystack, in steps."""

    key_length: int = struct.field(pytree_node=False, metadata={"option": False})
    length: int = 20

    @property
    def max_steps_in_episode(self) -> int:
        """Steps of every episode: the haystack, the passkey, and its recital."""
        return self.length + 2 * self.key_length


@struct.dataclass
class PasskeyState:
    """The passkey as far as it was shown."""

    digits: Array  # [key_length] int32, 0 where not yet shown
    start: Array  # int32, steps before the first digit
    time: Array  # int32, steps taken


@dataclass(frozen=True)
class Passkey(Task):
    """Shows `length` random digits of hay, amid them a passkey of `key_length` digits, which is to be recited.

    The passkey comes first (`place` "start"), or anywhere in the hay, all places equally likely (`place` "random"); it
    is never interrupted, and its role tells it from the hay. All digits are independent and uniform. Then the agent
    recites: key_length times it sees (RECITE, 0), and its action pays 1/key_length if it is the next digit of the
    passkey, else 0. Actions before count for nothing. The optimal return is exactly 1 (up to the rounding of
    1/key_length); without memory nothing is known of the digits, and the best expected return is 0.1. The episode
    terminates with the recital, after length + 2 * key_length steps; it is never truncated.

    Observation: Tuple of Discrete(3), the role (hay, passkey, recite), and Discrete(10), the digit. Action:
    Discrete(10).
    """

    key_length: int = 5
    place: str = "start"

    def __post_init__(self) -> None:
        """Raises `MemrlError` for an empty passkey or an unknown place."""
        check(1 <= self.key_length < 2**20, f"key_length of Passkey is {self.key_length}, expected 1 to {2**20 - 1}")
        check(self.place in PLACES, f"place of Passkey is {self.place!r}, expected one of {', '.join(PLACES)}")

    @property
    def default_params(self) -> PasskeyParams:
        """Twenty digits of hay."""
        return PasskeyParams(key_length=self.key_length)

    def check_params(self, params: PasskeyParams) -> None:
        """Raises `MemrlError` for a haystack out of range."""
        most = INT32_MAX - 2 * self.key_length
        check(0 <= params.length <= most, f"length of Passkey is {params.length}, expected 0 to {most}")

    def observation_space(self, params: PasskeyParams) -> Tuple:
        """Role and digit."""
        return Tuple((Discrete(3), Discrete(NUM_DIGITS)))

    def action_space(self, params: PasskeyParams) -> Discrete:
        """A digit."""
        return Discrete(NUM_DIGITS)

    def reset_env(self, key: Key, params: PasskeyParams) -> tuple[tuple[Array, Array], PasskeyState]:
        """Chooses the place of the passkey, and shows the first digit."""
        places = params.length + 1 if self.place == "random" else 1
        draws = integer_below(key, jnp.array([places, NUM_DIGITS]), (2,))
        digits = jnp.zeros(self.key_length, jnp.int32)
        return self._show(PasskeyState(digits, start=draws[0], time=jnp.zeros((), jnp.int32)), draws[1], params)

    def step_env(
        self, key: Key, state: PasskeyState, action: Array, params: PasskeyParams
    ) -> tuple[tuple[Array, Array], PasskeyState, Array, Array, dict[str, Any]]:
        """Judges what is recited, and shows the next digit."""
        asked = state.time - (params.length + self.key_length)
        target = jnp.sum(jnp.where(jnp.arange(self.key_length) == asked, state.digits, 0))
        reward = ((asked >= 0) & (action == target)).astype(jnp.float32) / self.key_length
        digit = integer_below(key, NUM_DIGITS)
        observation, state = self._show(replace(state, time=state.time + 1), digit, params)
        return observation, state, reward, asked == self.key_length - 1, {}

    def _show(
        self, state: PasskeyState, digit: Array, params: PasskeyParams
    ) -> tuple[tuple[Array, Array], PasskeyState]:
        """The observation at `state.time`, with the fresh `digit` where it is one of hay or passkey."""
        index = state.time - state.start
        reciting = state.time >= params.length + self.key_length
        within = (index >= 0) & (index < self.key_length)
        digits = jnp.where(within & (jnp.arange(self.key_length) == index), digit, state.digits)
        role = jnp.where(reciting, RECITE, jnp.where(within, PASSKEY, HAY)).astype(jnp.int32)
        return (role, jnp.where(reciting, 0, digit)), replace(state, digits=digits)
