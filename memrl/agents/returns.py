"""Returns and advantages of sequences [T, ...], all of them along the first axis."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from memrl.types import Array


class Advantages(NamedTuple):
    """What an actor-critic learns from."""

    advantage: Array  # [T, ...] of the action taken
    value_target: Array  # [T, ...] lambda-return, what the value should have been


def generalised_advantages(
    reward_t: Array,
    value_t: Array,
    terminated_t: Array,
    truncated_t: Array,
    final_value_t: Array,
    last_value: Array,
    discount: float | Array,
    trace: float | Array,
) -> Advantages:
    """Generalised advantage estimation (Schulman et al. 2016), right at the edges of episodes.

        delta_t = r_t + discount * v_tp1 - v_t,   A_t = delta_t + discount * trace * (1 - done_t) * A_{t+1}

    v_tp1 is 0 where the episode terminated, the value of its final observation where it was truncated, and otherwise
    the value of the next observation. Both ends cut the trace; where an episode does both, it terminated.

    Args:
        reward_t: [T, ...] reward of step t.
        value_t: [T, ...] value of the observation before step t.
        terminated_t: [T, ...] bool, the episode ended with step t.
        truncated_t: [T, ...] bool, the episode was cut after step t.
        final_value_t: [T, ...] value of the observation that follows step t in the truncated episode; read only there.
        last_value: [...] value of the observation after the last step.
        discount: gamma.
        trace: lambda.
    """
    chex.assert_equal_shape([reward_t, value_t, terminated_t, truncated_t, final_value_t])
    chex.assert_shape(last_value, reward_t.shape[1:])
    next_value = jnp.concatenate([value_t[1:], last_value[None]])
    next_value = jnp.where(truncated_t, final_value_t, next_value)
    next_value = jnp.where(terminated_t, 0, next_value)
    delta_t = reward_t + discount * next_value - value_t
    decay_t = jnp.where(terminated_t | truncated_t, 0, discount * trace)

    def accumulate(advantage, inputs):
        delta, decay = inputs
        advantage = delta + decay * advantage
        return advantage, advantage

    _, advantage = jax.lax.scan(accumulate, jnp.zeros_like(last_value), (delta_t, decay_t), reverse=True)
    return Advantages(advantage, advantage + value_t)
