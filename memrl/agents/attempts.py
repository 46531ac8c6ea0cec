"""The episodes of a rollout as attempts at the same thing: what came of them, and how they compare with each other.

Environments stand in groups of G, side by side, whose n-th episodes start alike. A rollout begins with a first episode
in each environment. Arrays of episodes are [N, B], episode n of environment b, with N = T; those that did not take
place have length 0. Arrays of steps are [T, B].
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from memrl.types import Array

Baseline = Literal["group", "leave_one_out", "batch", "none"]
MeanOver = Literal["episodes", "steps", "constant"]
EPSILON = 1e-6  # added to deviations


class Attempts(NamedTuple):
    """Which episode each step belongs to, and the extent of each episode."""

    episode: Array  # [T, B] int32, number n of the step's episode in its environment
    time: Array  # [T, B] int32, steps before this one in the episode
    start: Array  # [N, B] int32, the episode's first step
    length: Array  # [N, B] int32, steps, 0 where there was no such episode
    finished: Array  # [N, B] bool; the rollout's end cuts the others


def find_attempts(reset: Array, done: Array) -> Attempts:
    """The episodes of a rollout that starts afresh, by the resets before its steps and the ends after them, [T, B]."""
    T, B = reset.shape
    episode = jnp.cumsum(reset, 0, dtype=jnp.int32) - 1
    t = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32)[:, None], (T, B))
    time = t - lax.cummax(jnp.where(reset, t, 0))
    length = total(episode, jnp.ones_like(episode))
    first = jnp.cumsum(length, 0) - length  # episodes follow each other without gaps
    return Attempts(episode, time, first, length, total(episode, done.astype(jnp.int32)) > 0)


def total(episode: Array, x: Array) -> Array:
    """The sum of x [T, B] over the steps of each episode, [N, B]."""
    of_one = jax.vmap(lambda e, x: jnp.zeros_like(x).at[e].add(x), in_axes=1, out_axes=1)
    return of_one(episode, x)


def at_steps(attempts: Attempts, x: Array) -> Array:
    """What belongs to episodes, [N, B], at each of their steps, [T, B]."""
    return jnp.take_along_axis(x, attempts.episode, 0)


def returns_to_go(reward: Array, done: Array, discount: float) -> Array:
    """The discounted rewards of each step [T, B] and of what follows it in its episode."""

    def accumulate(following: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        reward, done = now
        following = reward + discount * jnp.where(done, 0, following)
        return following, following

    return lax.scan(accumulate, jnp.zeros_like(reward[0]), (reward, done), reverse=True)[1]


def in_groups(x: Array, group_size: int) -> Array:
    """[..., B] as [..., B / G, G]."""
    return x.reshape(*x.shape[:-1], -1, group_size)


def of_group(x: Array, group_size: int) -> Array:
    """x [N, B] of all environments of the group, for each of them: [N, B, G]."""
    return jnp.repeat(in_groups(x, group_size), group_size, -2)


def whole_groups(attempts: Attempts, group_size: int) -> Array:
    """The episodes [N, B] that all environments of their group have finished."""
    return jnp.all(of_group(attempts.finished, group_size), -1)


def same_step(attempts: Attempts, x: Array, group_size: int) -> tuple[Array, Array]:
    """x [T, B] at the same step of the same episode in each environment of the group: [T, B, G].

    The second result, bool, says which of them got that far.
    """
    T, B = x.shape
    peers = jnp.arange(group_size)

    def of_one_group(attempts: Attempts, x: Array) -> tuple[Array, Array]:
        n, k = attempts.episode[..., None], attempts.time[..., None]  # [T, G, 1]
        there = k < attempts.length[n, peers]
        return jnp.where(there, x[jnp.minimum(attempts.start[n, peers] + k, T - 1), peers], 0), there

    groups = jax.tree.map(lambda x: in_groups(x, group_size), (attempts, x))
    results = jax.vmap(of_one_group, in_axes=1, out_axes=1)(*groups)
    return results[0].reshape(T, B, group_size), results[1].reshape(T, B, group_size)


def relative(x: Array, others: Array, count: Array, baseline: Baseline, *, scale: bool) -> Array:
    """The advantage of scores x [...] over `others` [..., G], themselves among them, of which `count` [..., G] count.

    x less the mean of the others, and divided by their deviation if `scale`; exactly 0 where none differ. Where x is
    left out of its own mean (`leave_one_out`) this is k / (k - 1) times as much, for k that count.
    """
    if baseline == "none":
        return x
    k = jnp.sum(count, -1)
    mean = jnp.sum(jnp.where(count, others, 0), -1) / jnp.maximum(k, 1)
    advantage = x - mean
    if scale:
        square = jnp.sum(jnp.where(count, jnp.square(others - mean[..., None]), 0), -1)
        advantage = advantage / (jnp.sqrt(square / jnp.maximum(k, 1)) + EPSILON)
    if baseline == "leave_one_out":
        advantage = advantage * k / jnp.maximum(k - 1, 1)
    return jnp.where(differ(others, count), advantage, 0)


def differ(scores: Array, count: Array) -> Array:
    """Whether the scores [..., G] that count, [..., G], are not all the same: [...]."""
    most = jnp.max(jnp.where(count, scores, -jnp.inf), -1)
    least = jnp.min(jnp.where(count, scores, jnp.inf), -1)
    return most > least


def serial_factors(right: Array, length: Array, decay: float) -> Array:
    """What the rewards of right answers are multiplied by that were given at different times of one course of events.

    `decay` for every earlier time that there was a right answer at (S-GRPO, Dai et al. 2025, equation 2): [..., G].

    Args:
        right: [..., G] bool, the answer was right.
        length: [..., G] int32, when it was given.
        decay: between 0 and 1.
    """
    same = length[..., :, None] == length[..., None, :]
    earlier = length[..., None, :] < length[..., :, None]
    each = right / jnp.maximum(jnp.sum(same & right[..., None, :], -1), 1)  # those of one time count once together
    return decay ** jnp.sum(jnp.where(earlier, each[..., None, :], 0), -1)


def diversity_factors(mode: Array, count: Array, progress: Array | float) -> Array:
    """What Ada-GRPO (Wu et al. 2025, "ARM: Adaptive Reasoning Model", eq. 2-3) multiplies scores by.

    alpha = (G / F) (F / G + (1 - F / G) (1 + cos(pi progress)) / 2), where F of the G attempts that count have the same
    mode: G / F at the start of a run, where rare modes are to be kept alive, and 1 at its end.

    Args:
        mode: [..., G] integers.
        count: [..., G] bool, which attempts count.
        progress: of the run, 0 to 1.
    """
    alike = (mode[..., :, None] == mode[..., None, :]) & count[..., None, :]
    share = jnp.sum(alike, -1) / jnp.maximum(jnp.sum(count, -1, keepdims=True), 1)  # F / G
    share = jnp.where(count, share, 1)
    return (share + (1 - share) * (1 + jnp.cos(jnp.pi * progress)) / 2) / share


def step_weights(counts: Array, length: Array, mean_over: MeanOver, num_steps: int) -> Array:
    """What each step [T, B] weighs in the loss, by which of them count and how long their episodes are.

    The mean over episodes of means over their steps (Shao et al. 2024, equation 3), the mean over steps (Yu et al.
    2025, equation 8), or the mean over episodes of sums over their steps, divided by T (Liu et al. 2025).
    """
    of_episode = counts / length  # sums to 1 over an episode
    if mean_over == "steps":
        return counts / jnp.maximum(jnp.sum(counts), 1)
    episodes = jnp.maximum(jnp.round(jnp.sum(of_episode)), 1)
    return (of_episode if mean_over == "episodes" else counts / num_steps) / episodes
