"""Set disjointness: do two sets, shown element by element, have an element in common?

Source: Arora et al. 2024, "Just read twice: closing the recall gap for recurrent language models",
https://arxiv.org/abs/2407.05483, theory and code: with the short set first a recurrence has to hold the short set only,
with the long set first the long one.
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import struct

from memrl.envs.base import Task
from memrl.envs.draw import draw_from, integer_below
from memrl.errors import check
from memrl.spaces import Discrete, Tuple
from memrl.types import Array, Key

FIRST, SECOND, ASK = range(3)
ORDERS = ("short_first", "long_first")


@struct.dataclass
class SetDisjointnessParams:
    """How many elements the sets have."""

    short_size: int = 3
    long_size: int = 9

    @property
    def max_steps_in_episode(self) -> int:
        """Steps of every episode: one for each element, and the answer."""
        return self.short_size + self.long_size + 1


@struct.dataclass
class SetDisjointnessState:
    """The elements shown so far, and the place of the common one."""

    first: Array  # [vocab_size] bool, elements of the first set
    second: Array  # [vocab_size] bool, elements of the second set
    common: Array  # int32, the place in the second set of the element that is also in the first; -1 if disjoint
    time: Array  # int32, steps taken


@dataclass(frozen=True)
class SetDisjointness(Task):
    """Shows one set, then another, and asks whether they are disjoint.

    With probability 1/2 the sets are disjoint, else they have exactly one element in common; apart from that their
    elements, out of `vocab_size`, and the order in which they are shown are uniformly random. `order` says which set is
    shown first. The action at the question, which says nothing more, pays 1 if it is right, else 0; all others count
    for nothing. The optimal return is exactly 1, the best expected return without memory 0.5. The episode terminates
    with the answer, after short_size + long_size + 1 steps; it is never truncated.

    Observation: Tuple of Discrete(3), the role (first set, second set, question), and Discrete(vocab_size), the
    element, 0 at the question. Action: Discrete(2), 1 for disjoint.
    """

    vocab_size: int = 24
    order: str = "short_first"

    def __post_init__(self) -> None:
        """Raises `MemrlError` for too few elements or an unknown order."""
        n, order = self.vocab_size, self.order
        check(2 <= n <= 2**20, f"vocab_size of SetDisjointness is {n}, expected 2 to {2**20}")
        check(order in ORDERS, f"order of SetDisjointness is {order!r}, expected one of {', '.join(ORDERS)}")

    @property
    def default_params(self) -> SetDisjointnessParams:
        """Three elements against nine."""
        return SetDisjointnessParams()

    def check_params(self, params: SetDisjointnessParams) -> None:
        """Raises `MemrlError` unless both sets have elements, and disjoint ones fit in the vocabulary."""
        short, long, n = params.short_size, params.long_size, self.vocab_size
        half = n // 2
        check(
            1 <= short <= half,
            f"short_size of SetDisjointness is {short}, expected 1 to {half}, half of vocab_size",
        )
        check(
            short <= long <= n - short,
            f"long_size of SetDisjointness is {long}, expected {short} to {n - short}: "
            f"at least short_size, and both within vocab_size {n}",
        )

    def observation_space(self, params: SetDisjointnessParams) -> Tuple:
        """Role and element."""
        return Tuple((Discrete(3), Discrete(self.vocab_size)))

    def action_space(self, params: SetDisjointnessParams) -> Discrete:
        """Not disjoint, disjoint."""
        return Discrete(2)

    def reset_env(self, key: Key, params: SetDisjointnessParams) -> tuple[tuple[Array, Array], SetDisjointnessState]:
        """Chooses between disjoint and not, and shows the first element."""
        second_size = params.short_size if self.order == "long_first" else params.long_size
        draws = integer_below(key, jnp.array([self.vocab_size, 2 * second_size]), (2,))
        element = draws[0]
        common = jnp.where(draws[1] < second_size, draws[1], -1)
        first = jnp.arange(self.vocab_size) == element
        state = SetDisjointnessState(first, jnp.zeros_like(first), common, jnp.zeros((), jnp.int32))
        return (jnp.int32(FIRST), element), state

    def step_env(
        self, key: Key, state: SetDisjointnessState, action: Array, params: SetDisjointnessParams
    ) -> tuple[tuple[Array, Array], SetDisjointnessState, Array, Array, dict[str, Any]]:
        """Shows the next element, or the question, or judges the answer."""
        first_size = params.long_size if self.order == "long_first" else params.short_size
        asked = state.time == params.short_size + params.long_size
        reward = (asked & (action == (state.common < 0))).astype(jnp.float32)
        time = state.time + 1
        in_first, asking = time < first_size, time >= params.short_size + params.long_size
        pool = jnp.where(time - first_size == state.common, state.first, ~(state.first | state.second))
        element = draw_from(key, jnp.where(in_first, ~state.first, pool))
        here = (jnp.arange(self.vocab_size) == element) & ~asking
        new = SetDisjointnessState(
            first=state.first | (here & in_first),
            second=state.second | (here & ~in_first),
            common=state.common,
            time=time,
        )
        role = jnp.where(in_first, FIRST, jnp.where(asking, ASK, SECOND)).astype(jnp.int32)
        return (role, jnp.where(asking, 0, element)), new, reward, asked, {}
