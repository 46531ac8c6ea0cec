"""Evidence accumulation: decide between left and right from noisy cues, early or late.

Source: the discrete form of the sequential test, Wald 1945, "Sequential Tests of Statistical Hypotheses"; as a model of
decisions, Bogacz et al. 2006, "The Physics of Optimal Decision Making"; with a deadline, Frazier & Yu 2007, "Sequential
hypothesis testing under stochastic deadlines".
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from memrl.envs.base import Task
from memrl.envs.options import INT32_MAX
from memrl.errors import check
from memrl.spaces import Discrete
from memrl.types import Array, Key

LEFT, RIGHT, WAIT = range(3)


@struct.dataclass
class EvidenceAccumulationParams:
    """`length` is the number of cues; a cue is right with probability `reliability`; `wait_cost` is per step."""

    length: int = 20
    reliability: float = 0.7
    wait_cost: float = 0.01

    @property
    def max_steps_in_episode(self) -> int:
        """Steps of the longest episode: one for each cue."""
        return self.length


@struct.dataclass
class EvidenceAccumulationState:
    """The side that is right."""

    side: Array  # int32, LEFT or RIGHT
    time: Array  # int32, steps taken


@dataclass(frozen=True)
class EvidenceAccumulation(Task):
    """One side, left or right, is right throughout the episode; every step shows a cue, and the agent answers or waits.

    Each cue points to the right side with probability `reliability`, independently of all others. Answering ends the
    episode, and pays 1 if the answer is right, else 0. Waiting costs `wait_cost` and shows the next cue; after `length`
    cues there are no more, and who waits then has paid the last `wait_cost` for nothing: the episode is over. Every
    end, the deadline included, belongs to the task and terminates; it is never truncated.

    All that counts of the past is d, the cues for right less those for left. With p the reliability, the answer is
    right with probability q(d) = 1/(1 + ((1-p)/p)^|d|), so the optimal expected return is V_1 averaged over the first
    cue, where V_t(d) = max(q(d), -wait_cost + E V_{t+1}(d +- 1)) at the t-th cue, and V_length(d) = q(d). By default
    it is 0.8770. Without memory waiting gains nothing: the best expected return is `reliability`, by following the
    first cue.

    Observation: Discrete(2), the cue, left or right. Action: Discrete(3), left, right, wait.
    """

    answer_actions: ClassVar[tuple[int, ...]] = (LEFT, RIGHT)

    @property
    def default_params(self) -> EvidenceAccumulationParams:
        """Twenty cues at most."""
        return EvidenceAccumulationParams()

    def check_params(self, params: EvidenceAccumulationParams) -> None:
        """Raises `MemrlError` for a length, a reliability or a cost out of range."""
        length, reliability, cost = params.length, params.reliability, params.wait_cost
        name = self.name
        check(1 <= length <= INT32_MAX, f"length of {name} is {length}, expected 1 to {INT32_MAX}")
        check(0.5 <= reliability <= 1, f"reliability of {name} is {reliability}, expected 0.5 to 1")
        check(0 <= cost <= 1, f"wait_cost of {name} is {cost}, expected 0 to 1")

    def observation_space(self, params: EvidenceAccumulationParams) -> Discrete:
        """A cue: left or right."""
        return Discrete(2)

    def action_space(self, params: EvidenceAccumulationParams) -> Discrete:
        """Left, right, wait."""
        return Discrete(3)

    def reset_env(self, key: Key, params: EvidenceAccumulationParams) -> tuple[Array, EvidenceAccumulationState]:
        """Chooses the side, and shows the first cue."""
        side, misled = jax.random.bernoulli(key, jnp.stack([jnp.float32(0.5), 1.0 - params.reliability]))
        side = side.astype(jnp.int32)
        return side ^ misled, EvidenceAccumulationState(side, jnp.zeros((), jnp.int32))

    def step_env(
        self, key: Key, state: EvidenceAccumulationState, action: Array, params: EvidenceAccumulationParams
    ) -> tuple[Array, EvidenceAccumulationState, Array, Array, dict[str, Any]]:
        """Judges the answer, or shows the next cue."""
        waits = action == WAIT
        right = (action == state.side).astype(jnp.float32)
        reward = jnp.where(waits, -params.wait_cost, right).astype(jnp.float32)
        time = state.time + 1
        cue = state.side ^ jax.random.bernoulli(key, 1.0 - params.reliability)
        return cue, EvidenceAccumulationState(state.side, time), reward, ~waits | (time >= params.length), {}
