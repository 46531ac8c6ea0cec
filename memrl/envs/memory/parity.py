"""N-parity: is the number of ones in a stream of bits odd?

Source: Minsky & Papert 1969, "Perceptrons"; as a test of what a recurrence can compute, Grazzi et al. 2024, "Unlocking
State-Tracking in Linear RNNs Through Negative Eigenvalues", https://arxiv.org/abs/2411.12537, theorem 1.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from memrl.envs.base import Task
from memrl.envs.options import INT32_MAX
from memrl.errors import check
from memrl.spaces import Discrete
from memrl.types import Array, Key

ZERO, ONE, ASK = range(3)


@struct.dataclass
class ParityParams:
    """`length` is the number of bits."""

    length: int = 10

    @property
    def max_steps_in_episode(self) -> int:
        """Steps of every episode: one for each bit, and the answer."""
        return self.length + 1


@struct.dataclass
class ParityState:
    """The parity of the bits shown so far."""

    parity: Array  # int32, 0 or 1
    time: Array  # int32, steps taken


@dataclass(frozen=True)
class Parity(Task):
    """Shows `length` fair random bits, one at a time, then asks for their parity.

    While bits are shown, actions count for nothing. After the last one comes the question, which says nothing more;
    the action taken there pays 1 if it is the parity of all the bits, else 0. The optimal return is exactly 1. Without
    memory, and also with the memory of all bits but one, an agent can only guess: 0.5. The episode terminates with the
    answer, after length+1 steps; it is never truncated.

    With `every_step` all actions are judged, by the parity of the bits shown so far, and pay 1/(length+1) each: the
    same computation, learnt with a reward on the way. Optimum and chance are the same, but for the first bit, whose
    parity is in sight: 0.5 + 0.5/(length+1) without memory.

    Observation: Discrete(3), a bit or the question. Action: Discrete(2), 1 for an odd number of ones.
    """

    every_step: bool = False

    @property
    def default_params(self) -> ParityParams:
        """Ten bits."""
        return ParityParams()

    def check_params(self, params: ParityParams) -> None:
        """Raises `MemrlError` unless there is a bit."""
        length = params.length
        check(1 <= length < INT32_MAX, f"length of Parity is {length}, expected 1 to {INT32_MAX - 1}")

    def observation_space(self, params: ParityParams) -> Discrete:
        """Zero, one, question."""
        return Discrete(3)

    def action_space(self, params: ParityParams) -> Discrete:
        """Even, odd."""
        return Discrete(2)

    def reset_env(self, key: Key, params: ParityParams) -> tuple[Array, ParityState]:
        """Shows the first bit."""
        bit = jax.random.bernoulli(key).astype(jnp.int32)
        return bit, ParityState(parity=bit, time=jnp.zeros((), jnp.int32))

    def step_env(
        self, key: Key, state: ParityState, action: Array, params: ParityParams
    ) -> tuple[Array, ParityState, Array, Array, dict[str, Any]]:
        """Shows the next bit, or the question, or judges the answer."""
        asked = state.time == params.length
        right = (action == state.parity).astype(jnp.float32)
        reward = right / (params.length + 1) if self.every_step else jnp.where(asked, right, 0.0)
        time = state.time + 1
        bit = jnp.where(time < params.length, jax.random.bernoulli(key).astype(jnp.int32), 0)
        observation = jnp.where(time < params.length, bit, ASK).astype(jnp.int32)
        return observation, ParityState(state.parity ^ bit, time), reward, asked, {}
