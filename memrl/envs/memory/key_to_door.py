"""Key to door: a choice made at the start pays at the end, with rewards in between that have nothing to do with it.

Source: Hung et al. 2019, "Optimizing agent behavior over long time scales by transporting value",
https://arxiv.org/abs/1810.06721, after its key-to-door task; a symbolic version of it, in which the door also asks for
the colour of the key.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from memrl.envs.base import Task
from memrl.envs.draw import integer_below
from memrl.envs.options import INT32_MAX
from memrl.errors import check
from memrl.spaces import Discrete
from memrl.types import Array, Key

TAKE = 0  # action 1 + c opens the door with colour c
EMPTY, APPLE, DOOR = range(3)  # observations, after those of the keys


@struct.dataclass
class KeyToDoorParams:
    """`length` is the number of steps among the apples, which lie there with `apple_probability`."""

    length: int = 20
    apple_probability: float = 0.5
    apple_reward: float = 0.1

    @property
    def max_steps_in_episode(self) -> int:
        """Steps of every episode: key, apples, door."""
        return self.length + 2


@struct.dataclass
class KeyToDoorState:
    """The key's colour, whether the agent has it, and what is in sight."""

    colour: Array  # int32
    has_key: Array  # bool
    apple: Array  # bool, an apple is in sight
    time: Array  # int32, steps taken


@dataclass(frozen=True)
class KeyToDoor(Task):
    """Take the key, gather apples for `length` steps, then open the door by naming the key's colour.

    1. One step shows a key of one of `num_colours` colours, all equally likely. The action TAKE picks it up, any other
       leaves it; neither pays.
    2. Each of the next `length` steps shows an apple with `apple_probability`, else nothing. TAKE pays `apple_reward`
       for an apple; nothing else pays.
    3. One step shows the door. The action that names the key's colour pays 1 if the key was taken; nothing else pays.
       The door looks the same with and without the key.

    The optimal return is 1 + apple_reward * (apples shown), in expectation 1 + length * apple_probability *
    apple_reward, by default 2. An agent without memory takes key and apples alike but has to guess the colour: its best
    expected return is 1/num_colours + length * apple_probability * apple_reward, by default 1.25. The episode
    terminates with the door, after length+2 steps; it is never truncated.

    Observation: Discrete(num_colours + 3): a key of that colour, nothing, an apple, the door. Action:
    Discrete(num_colours + 1): 0 to take, 1 + c to open the door with colour c.
    """

    num_colours: int = 4

    def __post_init__(self) -> None:
        """Raises `MemrlError` where there is nothing to remember."""
        n = self.num_colours
        check(2 <= n < INT32_MAX - 2, f"num_colours of KeyToDoor is {n}, expected 2 to {INT32_MAX - 3}")

    @property
    def default_params(self) -> KeyToDoorParams:
        """Twenty steps among the apples, which are worth 1 in expectation."""
        return KeyToDoorParams()

    def check_params(self, params: KeyToDoorParams) -> None:
        """Raises `MemrlError` for a length, a probability or a reward out of range."""
        length, probability, apple = params.length, params.apple_probability, params.apple_reward
        most = INT32_MAX - 2
        check(0 <= length <= most, f"length of KeyToDoor is {length}, expected 0 to {most}")
        check(0 <= probability <= 1, f"apple_probability of KeyToDoor is {probability}, expected 0 to 1")
        check(0 <= apple <= 1000, f"apple_reward of KeyToDoor is {apple}, expected 0 to 1000")

    def observation_space(self, params: KeyToDoorParams) -> Discrete:
        """A key, nothing, an apple, the door."""
        return Discrete(self.num_colours + 3)

    def action_space(self, params: KeyToDoorParams) -> Discrete:
        """Take, or name a colour."""
        return Discrete(self.num_colours + 1)

    def reset_env(self, key: Key, params: KeyToDoorParams) -> tuple[Array, KeyToDoorState]:
        """Shows the key."""
        colour = integer_below(key, self.num_colours)
        no = jnp.zeros((), bool)
        return colour, KeyToDoorState(colour, has_key=no, apple=no, time=jnp.zeros((), jnp.int32))

    def step_env(
        self, key: Key, state: KeyToDoorState, action: Array, params: KeyToDoorParams
    ) -> tuple[Array, KeyToDoorState, Array, Array, dict[str, Any]]:
        """Takes or opens, and goes on."""
        takes = action == TAKE
        at_door = state.time == params.length + 1
        opened = at_door & state.has_key & (action == 1 + state.colour)
        eaten = jnp.where(state.apple & takes, params.apple_reward, 0.0)
        reward = jnp.where(opened, 1.0, eaten).astype(jnp.float32)
        time = state.time + 1
        apple = (time <= params.length) & jax.random.bernoulli(key, params.apple_probability)
        seen = jnp.where(time == params.length + 1, DOOR, jnp.where(apple, APPLE, EMPTY))
        has_key = jnp.where(state.time == 0, takes, state.has_key)
        new = KeyToDoorState(state.colour, has_key, apple, time)
        return (self.num_colours + seen).astype(jnp.int32), new, reward, at_door, {}
