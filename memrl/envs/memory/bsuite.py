"""bsuite's memory chain: recall one of several bits that were shown at the start.

Source: Osband et al. 2019, "Behaviour Suite for Reinforcement Learning", https://arxiv.org/abs/1908.03568, experiments
memory_len and memory_size, and its code (environments/memory_chain.py), which is the authority for what follows.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
from flax import struct

from memrl.envs.base import Task
from memrl.envs.draw import integer_below
from memrl.envs.options import INT32_MAX
from memrl.errors import check
from memrl.spaces import Box, Discrete
from memrl.types import Array, Key


@struct.dataclass
class MemoryChainParams:
    """`memory_length` is the clock time over which the bits must be remembered, in steps."""

    memory_length: int = 10

    @property
    def max_steps_in_episode(self) -> int:
        """Steps of every episode."""
        return self.memory_length + 1


@struct.dataclass
class MemoryChainState:
    """The bits, and which of them is asked for."""

    context: Array  # [num_bits] int32, 0 or 1
    query: Array  # int32, an index into the context
    time: Array  # int32, steps taken


@dataclass(frozen=True)
class MemoryChain(Task):
    """Shows `num_bits` fair bits, and at the end asks for one of them, each equally likely.

    bsuite's memory_len ("MemoryLength") varies `memory_length` with one bit, its memory_size ("MemorySize") `num_bits`
    with a memory_length of 2. As there, an observation is made before the clock advances: reset and first step both
    show clock 0 and the bits, step t shows clock t-1; at clock memory_length - 1 the query shows, and the action that
    follows, the last of memory_length + 1, is rewarded with 1 if it names the bit asked for and -1 if not. All other
    actions count for nothing.

    The optimal return is exactly 1. The best expected return without memory is 0, but for a memory_length of 1, where
    bits and query are in sight together and it is 1. The episode terminates with the answer; it is never truncated.

    Observation: Box [num_bits + 2] float32: the share of the time that is left, 1 - clock/memory_length; the query's
    index, 0 before it is asked; the bits as -1 or 1, at clock 0 only, else 0. Action: Discrete(2), a bit.
    """

    num_bits: int = 1

    def __post_init__(self) -> None:
        """Raises `MemrlError` unless there is a bit."""
        check(1 <= self.num_bits < 2**20, f"num_bits of MemoryChain is {self.num_bits}, expected 1 to {2**20 - 1}")

    @property
    def default_params(self) -> MemoryChainParams:
        """Ten steps."""
        return MemoryChainParams()

    def check_params(self, params: MemoryChainParams) -> None:
        """Raises `MemrlError` unless there is a time to remember."""
        length, most = params.memory_length, INT32_MAX - 1
        check(1 <= length <= most, f"memory_length of MemoryChain is {length}, expected 1 to {most}")

    def observation_space(self, params: MemoryChainParams) -> Box:
        """Time left, query, bits: [num_bits + 2] float32."""
        return Box(-1.0, float(max(self.num_bits - 1, 1)), (self.num_bits + 2,), jnp.float32)

    def action_space(self, params: MemoryChainParams) -> Discrete:
        """A bit."""
        return Discrete(2)

    def reset_env(self, key: Key, params: MemoryChainParams) -> tuple[Array, MemoryChainState]:
        """Draws bits and query, and shows clock 0."""
        highs = jnp.where(jnp.arange(self.num_bits + 1) == 0, self.num_bits, 2)
        draws = integer_below(key, highs, (self.num_bits + 1,))
        state = MemoryChainState(context=draws[1:], query=draws[0], time=jnp.zeros((), jnp.int32))
        return self._observation(state, params), state

    def step_env(
        self, key: Key, state: MemoryChainState, action: Array, params: MemoryChainParams
    ) -> tuple[Array, MemoryChainState, Array, Array, dict[str, Any]]:
        """Shows the clock, and judges the last action."""
        last = state.time == params.memory_length
        target = jnp.sum(jnp.where(jnp.arange(self.num_bits) == state.query, state.context, 0))
        answer = jnp.where(action == target, 1.0, -1.0)
        reward = jnp.where(last, answer, 0.0).astype(jnp.float32)
        return self._observation(state, params), replace(state, time=state.time + 1), reward, last, {}

    def _observation(self, state: MemoryChainState, params: MemoryChainParams) -> Array:
        left = 1.0 - state.time / params.memory_length
        query = jnp.where(state.time == params.memory_length - 1, state.query, 0)
        bits = jnp.where(state.time == 0, 2 * state.context - 1, 0)
        return jnp.concatenate([jnp.stack([left, query.astype(jnp.float32)]), bits.astype(jnp.float32)])
