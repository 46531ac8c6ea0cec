"""What few runs on several tasks say, and how sure that is.

Source: Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice",
https://arxiv.org/abs/2108.13264, and its package rliable, whose definitions these are; MMER is that of Morad et al.
2023, "POPGym".

Scores are [..., R, M]: R runs of one algorithm on each of M tasks, more is better, 1 is the best possible. An interval
is the percentile bootstrap's, stratified: the runs of each task are drawn again, with replacement, apart from those of
other tasks.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from memrl.errors import check

REPETITIONS = 2000
CONFIDENCE = 0.95
_TRIMMED = 0.25  # of the scores, at either end
_BLOCK = 2**22  # scores that are drawn at once, to bound the memory

Statistic = Callable[[np.ndarray], np.ndarray]  # [..., R, M] -> [...]


class Estimate(NamedTuple):
    """A statistic and its confidence interval; numbers, or arrays of one shape."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def interquartile_mean(scores: np.ndarray) -> np.ndarray:
    """The mean of the middle half of all scores, whichever task they are of; [...]."""
    flat = np.reshape(scores, (*scores.shape[:-2], -1))
    size = flat.shape[-1]
    cut = int(_TRIMMED * size)
    if cut:
        flat = np.partition(flat, (cut, size - cut - 1), axis=-1)[..., cut : size - cut]
    return flat.mean(-1)


def median(scores: np.ndarray) -> np.ndarray:
    """The median over tasks of the mean over runs; [...]."""
    return np.median(scores.mean(-2), axis=-1)


def mean(scores: np.ndarray) -> np.ndarray:
    """The mean over tasks of the mean over runs; [...]."""
    return scores.mean((-2, -1))


def optimality_gap(scores: np.ndarray) -> np.ndarray:
    """How far the scores fall short of 1 on average, what exceeds it not counted; less is better; [...]."""
    return 1.0 - np.minimum(scores, 1.0).mean((-2, -1))


AGGREGATES: Mapping[str, Statistic] = {
    "interquartile mean": interquartile_mean,
    "median": median,
    "mean": mean,
    "optimality gap": optimality_gap,
}


def estimate(
    statistic: Statistic,
    scores: np.ndarray,
    *,
    repetitions: int = REPETITIONS,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Estimate:
    """The statistic of scores [..., R, M] with its interval, [...]; leading axes are drawn together.

    With points in time in front, [F, R, M], it is a sample-efficiency curve.
    """
    scores = _checked(scores)
    rng = np.random.default_rng(seed)
    runs, tasks = scores.shape[-2:]
    block = max(1, _BLOCK // scores.size)
    replicates = []
    for start in range(0, repetitions, block):
        count = min(block, repetitions - start)
        chosen = rng.integers(runs, size=(count, runs, tasks))
        replicates.append(statistic(scores[..., chosen, np.arange(tasks)]))
    return _estimate(statistic(scores), np.concatenate(replicates, axis=-1), confidence)


def probability_of_improvement(
    scores: np.ndarray,
    others: np.ndarray,
    *,
    repetitions: int = REPETITIONS,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Estimate:
    """How likely a run of the first algorithm beats one of the second, on a task drawn at random; ties count half.

    Scores are [R, M] and [R', M]; the runs of both are drawn again independently of each other.
    """
    scores, others = _checked(scores), _checked(others)
    tasks = scores.shape[1]
    check(others.shape[1] == tasks, f"scores are of {tasks} and {others.shape[1]} tasks, expected the same tasks")
    first, second = scores.T[:, :, None], others.T[:, None, :]
    wins = (first > second) + 0.5 * (first == second)  # [M, R, R']
    rng = np.random.default_rng(seed)
    weights, other_weights = (_weights(rng, x, repetitions) for x in (scores, others))  # [M, reps, R], [M, reps, R']
    replicates = np.sum((weights @ wins) * other_weights, axis=2).mean(0)
    return _estimate(wins.mean(), replicates, confidence)


def performance_profile(
    scores: np.ndarray,
    thresholds: np.ndarray,
    *,
    repetitions: int = REPETITIONS,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Estimate:
    """The share of all runs [R, M] with a score above each of the thresholds [K]; [K]."""
    scores = _checked(scores)
    above = (scores.T[:, :, None] > np.asarray(thresholds)).astype(float)  # [M, R, K]
    weights = _weights(np.random.default_rng(seed), scores, repetitions)
    return _estimate(above.mean((0, 1)), (weights @ above).mean(0).T, confidence)


def mean_over_runs(
    values: np.ndarray, *, repetitions: int = REPETITIONS, confidence: float = CONFIDENCE, seed: int = 0
) -> Estimate:
    """The mean of values [n, R] over runs, with its interval; [n], NaN where no run has a value."""
    known = ~np.isnan(values)
    drawn = np.random.default_rng(seed).multinomial(
        values.shape[1], np.full(values.shape[1], 1 / values.shape[1]), repetitions
    )
    weights = np.concatenate([np.ones_like(drawn[:1]), drawn]).T  # the runs as they are, and drawn again
    total = np.where(known, values, 0.0) @ weights
    number = known.astype(float) @ weights
    means = np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0.5)  # [n, 1 + reps]
    result = np.full((3, len(values)), np.nan)
    shown = known.any(1)
    if shown.any():
        tails = _tails(confidence)
        result[0, shown] = means[shown, 0]
        percentile = np.percentile if known.all() else np.nanpercentile
        result[1:, shown] = percentile(means[shown, 1:], tails, axis=1)
    return Estimate(*result)


def mmer(returns: np.ndarray) -> np.ndarray:
    """POPGym's MMER: the maximum over training of the mean episodic return [n, S]; [S], NaN where no episode ended."""
    returns = np.asarray(returns, float)
    none = np.isnan(returns).all(axis=0)
    return np.where(none, np.nan, np.max(np.where(np.isnan(returns), -np.inf, returns), axis=0, initial=-np.inf))


def _checked(scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores, float)
    check(
        scores.ndim >= 2 and min(scores.shape) >= 1 and bool(np.isfinite(scores).all()),
        f"scores are of shape {scores.shape}, expected finite numbers [..., runs, tasks], one of each at least",
    )
    return scores


def _weights(rng: np.random.Generator, scores: np.ndarray, repetitions: int) -> np.ndarray:
    """How often each run of scores [R, M] is drawn, as shares: [M, repetitions, R]."""
    runs, tasks = scores.shape
    return rng.multinomial(runs, np.full(runs, 1 / runs), (tasks, repetitions)) / runs


def _estimate(value: np.ndarray, replicates: np.ndarray, confidence: float) -> Estimate:
    low, high = np.percentile(replicates, _tails(confidence), axis=-1)
    return Estimate(np.asarray(value), low, high)


def _tails(confidence: float) -> tuple[float, float]:
    check(0 < confidence < 1, f"confidence is {confidence}, expected between 0 and 1")
    return 50 * (1 - confidence), 50 * (1 + confidence)
