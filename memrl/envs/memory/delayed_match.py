"""Delayed match to sample: is the probe the symbol that was shown before the delay?

Source: the task of working-memory research, Blough 1959, "Delayed matching in the pigeon", and Fuster & Alexander
1971; with distractors in the delay, Miller, Erickson & Desimone 1996.
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import struct

from memrl.envs.base import Task
from memrl.envs.draw import integer_below
from memrl.envs.options import INT32_MAX
from memrl.errors import check
from memrl.spaces import Discrete, Tuple
from memrl.types import Array, Key

SAMPLE, DISTRACTOR, PROBE, OVER = range(4)


@struct.dataclass
class DelayedMatchParams:
    """`length` is the number of distractors between sample and probe."""

    length: int = 10

    @property
    def max_steps_in_episode(self) -> int:
        """Steps of every episode: sample, distractors and probe."""
        return self.length + 2


@struct.dataclass
class DelayedMatchState:
    """The sample, and the symbol in sight."""

    sample: Array  # int32
    symbol: Array  # int32, in sight
    time: Array  # int32, steps taken


@dataclass(frozen=True)
class DelayedMatch(Task):
    """Shows a sample, then `length` distractors, then a probe, and asks whether the probe is the sample.

    Sample and distractors are independent and uniform among `num_symbols`; the probe is the sample with probability
    1/2, else one of the other symbols, all equally likely. The action taken at the probe pays 1 if it is right, else
    0; all others count for nothing. The optimal return is exactly 1. Seen alone, every probe matches with probability
    1/2, so the best expected return without memory is 0.5. The episode terminates with the answer, after length+2
    steps; it is never truncated.

    Observation: Tuple of Discrete(4), the role (sample, distractor, probe, over), and Discrete(num_symbols), the
    symbol. Action: Discrete(2), 1 for a match.
    """

    num_symbols: int = 4

    def __post_init__(self) -> None:
        """Raises `MemrlError` where nothing could differ."""
        n = self.num_symbols
        check(2 <= n <= 2**30, f"num_symbols of DelayedMatch is {n}, expected 2 to {2**30}")

    @property
    def default_params(self) -> DelayedMatchParams:
        """Ten distractors."""
        return DelayedMatchParams()

    def check_params(self, params: DelayedMatchParams) -> None:
        """Raises `MemrlError` for a delay out of range."""
        length = params.length
        check(0 <= length < INT32_MAX - 1, f"length of DelayedMatch is {length}, expected 0 to {INT32_MAX - 2}")

    def observation_space(self, params: DelayedMatchParams) -> Tuple:
        """Role and symbol."""
        return Tuple((Discrete(4), Discrete(self.num_symbols)))

    def action_space(self, params: DelayedMatchParams) -> Discrete:
        """No match, match."""
        return Discrete(2)

    def reset_env(self, key: Key, params: DelayedMatchParams) -> tuple[tuple[Array, Array], DelayedMatchState]:
        """Shows the sample."""
        sample = integer_below(key, self.num_symbols)
        return (jnp.int32(SAMPLE), sample), DelayedMatchState(sample, sample, jnp.zeros((), jnp.int32))

    def step_env(
        self, key: Key, state: DelayedMatchState, action: Array, params: DelayedMatchParams
    ) -> tuple[tuple[Array, Array], DelayedMatchState, Array, Array, dict[str, Any]]:
        """Shows the next symbol, or judges the answer to the probe."""
        asked = state.time == params.length + 1
        reward = (asked & (action == (state.symbol == state.sample))).astype(jnp.float32)
        time = state.time + 1
        n = self.num_symbols
        # One draw serves both: below n - 1 it is a shift to another symbol, from there on, as likely, no shift.
        draw = integer_below(key, jnp.where(time == params.length + 1, 2 * (n - 1), n))
        probe = (state.sample + jnp.where(draw < n - 1, draw + 1, 0)) % n
        symbol = jnp.where(time == params.length + 1, probe, draw)
        symbol = jnp.where(asked, 0, symbol).astype(jnp.int32)
        role = jnp.where(time <= params.length, DISTRACTOR, jnp.where(asked, OVER, PROBE)).astype(jnp.int32)
        return (role, symbol), DelayedMatchState(state.sample, symbol, time), reward, asked, {}
