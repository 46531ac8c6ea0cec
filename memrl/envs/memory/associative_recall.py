"""Multi-query associative recall (MQAR): name the values that went with several keys.

Source: Arora et al. 2023, "Zoology: Measuring and Improving Recall in Efficient Language Models",
https://arxiv.org/abs/2312.04927, and its code, with the queries one after another in random order rather than
spread by a power law.
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import struct

from memrl.envs.base import Task
from memrl.envs.draw import draw_from, integer_below
from memrl.errors import check
from memrl.spaces import Discrete
from memrl.types import Array, Key


@struct.dataclass
class AssociativeRecallParams:
    """`num_pairs` pairs of key and value are shown, `num_queries` of their keys are asked for."""

    num_pairs: int = 4
    num_queries: int = 4

    @property
    def max_steps_in_episode(self) -> int:
        """Steps of every episode: one for each key and value of a pair, and for each query."""
        return 2 * self.num_pairs + self.num_queries


@struct.dataclass
class AssociativeRecallState:
    """The pairs, and the key in sight."""

    values: Array  # [num_keys] int32, the value of each key; -1 for keys that were not shown, and for those asked for
    key: Array  # int32, shown last
    value: Array  # int32, that of the key asked for last
    time: Array  # int32, steps taken


@dataclass(frozen=True)
class AssociativeRecall(Task):
    """Shows `num_pairs` keys, each followed by its value, then `num_queries` of the keys, and asks for their values.

    The first half of the vocabulary are keys, the second half values. The keys of an episode are distinct, each value
    is uniform and independent of all others; the queries are distinct keys among those shown, in random order. Nothing
    marks a query but that its key was seen before. The action at a query pays 1/num_queries if it is the value's
    index, else 0; all others count for nothing. The optimal return is exactly 1 (up to the rounding of 1/num_queries).
    Without memory the key says nothing about its value: the best expected return is 2/vocab_size. The episode
    terminates with the last query, after 2 * num_pairs + num_queries steps; it is never truncated.

    Observation: Discrete(vocab_size + 1): a key in [0, vocab_size/2), a value in [vocab_size/2, vocab_size), or
    vocab_size once all is over. Action: Discrete(vocab_size/2), the value's token less vocab_size/2.
    """

    vocab_size: int = 16

    def __post_init__(self) -> None:
        """Raises `MemrlError` unless the vocabulary has two equal halves."""
        n = self.vocab_size
        check(4 <= n <= 2**20 and n % 2 == 0, f"vocab_size of AssociativeRecall is {n}, expected even, 4 to {2**20}")

    @property
    def num_keys(self) -> int:
        """Keys, and also values, in the vocabulary."""
        return self.vocab_size // 2

    @property
    def default_params(self) -> AssociativeRecallParams:
        """Four pairs, all asked for."""
        return AssociativeRecallParams()

    def check_params(self, params: AssociativeRecallParams) -> None:
        """Raises `MemrlError` for more pairs than keys or more queries than pairs."""
        pairs, queries, keys = params.num_pairs, params.num_queries, self.num_keys
        check(
            1 <= pairs <= keys,
            f"num_pairs of AssociativeRecall is {pairs}, expected 1 to {keys}, half of vocab_size",
        )
        check(
            1 <= queries <= pairs,
            f"num_queries of AssociativeRecall is {queries}, expected 1 to {pairs}, the number of pairs",
        )

    def observation_space(self, params: AssociativeRecallParams) -> Discrete:
        """A key, a value, or the end."""
        return Discrete(self.vocab_size + 1)

    def action_space(self, params: AssociativeRecallParams) -> Discrete:
        """A value."""
        return Discrete(self.num_keys)

    def reset_env(self, key: Key, params: AssociativeRecallParams) -> tuple[Array, AssociativeRecallState]:
        """Shows the first key."""
        first = integer_below(key, self.num_keys)
        zero = jnp.zeros((), jnp.int32)
        return first, AssociativeRecallState(jnp.full(self.num_keys, -1, jnp.int32), key=first, value=zero, time=zero)

    def step_env(
        self, key: Key, state: AssociativeRecallState, action: Array, params: AssociativeRecallParams
    ) -> tuple[Array, AssociativeRecallState, Array, Array, dict[str, Any]]:
        """Judges the answer to a query, and shows the next token."""
        pairs_end = 2 * params.num_pairs
        right = (state.time >= pairs_end) & (action == state.value)
        reward = right.astype(jnp.float32) / params.num_queries
        time = state.time + 1
        asking = time >= pairs_end
        after_key = (time % 2 == 1) & ~asking
        # One draw for each kind of token: a new value, a key not shown yet, a key not asked for yet.
        pool = jnp.where(after_key, True, jnp.where(asking, state.values >= 0, state.values < 0))
        drawn = draw_from(key, pool)
        here = jnp.arange(self.num_keys) == jnp.where(after_key, state.key, drawn)
        value = jnp.sum(jnp.where(here & asking, state.values, 0))
        values = jnp.where(here & after_key, drawn, jnp.where(here & asking, -1, state.values))
        token = jnp.where(after_key, self.num_keys + drawn, drawn)
        last = time >= params.max_steps_in_episode
        observation = jnp.where(last, self.vocab_size, token).astype(jnp.int32)
        shown_key = jnp.where(after_key, state.key, drawn)
        return observation, AssociativeRecallState(values, shown_key, value, time), reward, last, {}
