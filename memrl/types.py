"""Shared names for arrays and pytrees.

Axis letters, used in names, comments and docstrings throughout the library:

    T  time (steps of a rollout)          H  attention heads
    B  batch of environments              K, V  key and value widths of a head
    D  features                           C  chunk length
    N  width of a recurrent state         G  group of environments (GRPO)
    S  seeds

Trajectories are time-major: `[T, B, ...]`. `reset[t]` is true where `x[t]` is the first observation of an episode: the
state before `x[t]` is consumed is the initial state.
"""

from typing import Any, NamedTuple, TypeAlias

import jax

Array: TypeAlias = jax.Array
Key: TypeAlias = jax.Array  # a typed key made by jax.random.key
PyTree: TypeAlias = Any
State: TypeAlias = Any  # recurrent state: a pytree whose leaves are [B, ...]
Observation: TypeAlias = Any  # a pytree whose leaves are [B, ...] or [T, B, ...]


class Transition(NamedTuple):
    """One step of B environments, or with a leading T, a trajectory.

    `reset` belongs to `observation`; the other flags belong to what followed `action`.
    """

    observation: Observation  # [B, ...] what the agent saw
    reset: Array  # [B] bool, observation is the first of its episode
    action: Array  # [B, ...]
    log_prob: Array  # [B] of action under the policy that took it
    value: Any  # [B] V(observation); None of an agent without a critic
    reward: Array  # [B]
    terminated: Array  # [B] bool, the episode ended: nothing follows
    truncated: Array  # [B] bool, the episode was cut: it would have gone on
    final_value: Any  # [B] V(final observation) where truncated, elsewhere 0; or None


class Trajectory(NamedTuple):
    """What a rollout leaves: T steps of B environments, and all that is needed to replay them."""

    transitions: Transition  # leaves [T, B, ...]
    chunk_states: State  # leaves [T / C, B, ...]: recurrent state before each chunk of C steps
    last_value: Any  # [B] V(what follows the last step), where its episode goes on; or None
