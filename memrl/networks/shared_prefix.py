"""Rows that begin alike, computed once as long as they do.

The idea is that of Liu et al. 2025, "Prefix Grouper: Efficient GRPO Training through Shared-Prefix Forward"; all that a
recurrent network needs of the prefix is the state after it, which each row of a group goes on from.
"""

from typing import TypeVar

import jax
import jax.numpy as jnp

from memrl.networks.actor_critic import ActorCritic, Output
from memrl.types import Array, Observation

Rows = TypeVar("Rows")


def unroll_groups(
    network: ActorCritic, observations: Observation, resets: Array, group_size: int, prefix: int
) -> Output:
    """The network over [T, B, ...] from its initial state; of the first `prefix` steps, one row of each group of G.

    Outputs and gradients are those of the plain unroll, given that the rows of a group, side by side, have the same
    observations and resets in these steps; where they have not, all outputs of these steps are NaN.
    """
    T, B = resets.shape
    if prefix == 0:
        return network.unroll(network.initial_state(B), observations, resets)[1]
    first = jax.tree.map(lambda x: x[:prefix], (observations, resets))
    leaders = jax.tree.map(lambda x: x[:, ::group_size], first)
    state, output = network.unroll(network.initial_state(B // group_size), *leaders)
    alike = jnp.all(rows_alike(first, group_size))
    said = repeat_rows((output.policy, output.value), group_size, axis=1)
    said = jax.tree.map(lambda x: jnp.where(alike, x, jnp.nan), said)
    if prefix == T:
        return Output(said[0], said[1], output.metrics)
    rest = jax.tree.map(lambda x: x[prefix:], (observations, resets))
    _, output_of_rest = network.unroll(repeat_rows(state, group_size), *rest)
    said_then = (output_of_rest.policy, output_of_rest.value)
    said = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), said, said_then)
    share = prefix / T  # metrics are means over steps
    metrics = jax.tree.map(lambda x, y: share * x + (1 - share) * y, output.metrics, output_of_rest.metrics)
    return Output(said[0], said[1], metrics)


def repeat_rows(rows: Rows, times: int, axis: int = 0) -> Rows:
    """Each row of the leaves `times` times, side by side."""
    return jax.tree.map(lambda x: jnp.repeat(x, times, axis), rows) if times > 1 else rows


def rows_alike(rows: Observation, group_size: int) -> Array:
    """Whether leaves [T, B, ...] are the same throughout each group, step by step: [T]."""

    def alike(x: Array) -> Array:
        groups = x.reshape(x.shape[0], -1, group_size, *x.shape[2:])
        return jnp.all(groups == groups[:, :, :1], axis=tuple(range(1, groups.ndim)))

    return jnp.all(jnp.stack([alike(x) for x in jax.tree.leaves(rows)]), 0)
