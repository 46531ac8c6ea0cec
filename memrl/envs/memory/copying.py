"""Copy: see a sequence, wait, and reproduce it in order.

Source: Hochreiter & Schmidhuber 1997, "Long Short-Term Memory"; in this form Arjovsky et al. 2016, "Unitary Evolution
Recurrent Neural Networks", https://arxiv.org/abs/1511.06464, its copying memory problem; repeated, Graves et al. 2014,
"Neural Turing Machines", https://arxiv.org/abs/1410.5401, section 4.2.
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import struct

from memrl.envs.base import Task
from memrl.envs.draw import integer_below
from memrl.envs.options import INT32_MAX
from memrl.errors import check
from memrl.spaces import Discrete
from memrl.types import Array, Key


@struct.dataclass
class CopyParams:
    """`delay` is the number of steps between sequence and copy, `repeats` how often it is to be copied."""

    length: int = struct.field(pytree_node=False, metadata={"option": False})
    delay: int = 10
    repeats: int = 1

    @property
    def max_steps_in_episode(self) -> int:
        """Steps of every episode: the sequence, the delay, and the copies."""
        return self.length + self.delay + self.length * self.repeats


@struct.dataclass
class CopyState:
    """The sequence as far as it was shown."""

    symbols: Array  # [length] int32, 0 where not yet shown
    time: Array  # int32, steps taken


@dataclass(frozen=True)
class Copy(Task):
    """Shows `length` independent, uniform symbols, is blank for `delay` steps, then asks for them in order.

    The question shows for length * repeats steps, on which the agent names the symbols one after another, from the
    first to the last, `repeats` times over; each right one pays 1/(length * repeats), a wrong one nothing. Actions
    before count for nothing. The optimal return is exactly 1 (up to the rounding of that fraction); without memory
    the best expected return is 1/num_symbols. The episode terminates with the last symbol, after length + delay +
    length * repeats steps; it is never truncated.

    Observation: Discrete(num_symbols + 2), a symbol, then num_symbols for a blank and num_symbols + 1 for the
    question. Action: Discrete(num_symbols).
    """

    length: int = 5
    num_symbols: int = 8

    def __post_init__(self) -> None:
        """Raises `MemrlError` for an empty sequence or too few symbols."""
        length, n = self.length, self.num_symbols
        check(1 <= length < 2**20, f"length of Copy is {length}, expected 1 to {2**20 - 1}")
        check(2 <= n < INT32_MAX - 1, f"num_symbols of Copy is {n}, expected 2 to {INT32_MAX - 2}")

    @property
    def default_params(self) -> CopyParams:
        """One copy after ten steps."""
        return CopyParams(length=self.length)

    def check_params(self, params: CopyParams) -> None:
        """Raises `MemrlError` for a delay or a number of copies out of range."""
        delay, repeats = params.delay, params.repeats
        longest = INT32_MAX - 2 * self.length
        check(0 <= delay <= longest, f"delay of Copy is {delay}, expected 0 to {longest}")
        most = (INT32_MAX - self.length - delay) // self.length
        check(1 <= repeats <= most, f"repeats of Copy is {repeats}, expected 1 to {most} with this length and delay")

    def observation_space(self, params: CopyParams) -> Discrete:
        """A symbol, a blank, or the question."""
        return Discrete(self.num_symbols + 2)

    def action_space(self, params: CopyParams) -> Discrete:
        """A symbol."""
        return Discrete(self.num_symbols)

    def reset_env(self, key: Key, params: CopyParams) -> tuple[Array, CopyState]:
        """Shows the first symbol."""
        symbol = integer_below(key, self.num_symbols)
        symbols = jnp.where(jnp.arange(self.length) == 0, symbol, 0)
        return symbol, CopyState(symbols, jnp.zeros((), jnp.int32))

    def step_env(
        self, key: Key, state: CopyState, action: Array, params: CopyParams
    ) -> tuple[Array, CopyState, Array, Array, dict[str, Any]]:
        """Judges a copied symbol, and shows the next one, the blank or the question."""
        places, ask_from = jnp.arange(self.length), self.length + params.delay
        asked = state.time >= ask_from
        target = jnp.sum(jnp.where(places == (state.time - ask_from) % self.length, state.symbols, 0))
        reward = (asked & (action == target)).astype(jnp.float32) / (self.length * params.repeats)
        time = state.time + 1
        symbol = integer_below(key, self.num_symbols)
        symbols = jnp.where(places == time, symbol, state.symbols)
        signal = jnp.where(time < ask_from, self.num_symbols, self.num_symbols + 1)
        observation = jnp.where(time < self.length, symbol, signal).astype(jnp.int32)
        return observation, CopyState(symbols, time), reward, time >= params.max_steps_in_episode, {}
