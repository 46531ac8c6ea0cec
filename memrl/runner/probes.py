"""Linear probes: what can be read from vectors, by ridge regression, as told on episodes that it did not see.

The episodes are cut into five parts; each part is scored by a regression on three others, whose penalty does best on
the fifth. Classes are the largest of their one-hot regressions (accuracy), numbers are scored by the share of the
variance that is explained (R²).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.linalg
import threadpoolctl

FOLDS = 5
_PENALTIES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # of the sum of the eigenvalues of the rows' products
_BLOCK = 1024  # features at a time
_CONSTANT = 1e-6  # deviations below that part of the largest are rounding


class Score(NamedTuple):
    """How well targets can be told."""

    score: float  # accuracy, or R²; NaN where the targets do not vary
    error: float  # standard error, by leaving out episodes; NaN with fewer than two of them
    chance: float  # the score of what does not look: the most frequent class, or the mean


class Targets(NamedTuple):
    """What is to be told."""

    values: np.ndarray  # [n, Y] float: one-hot vectors side by side, or numbers
    classes: tuple[tuple[int, int], ...] | None  # columns from, to of each one-hot vector; None for numbers

    @property
    def measure(self) -> str:
        """The name of the score."""
        return "R²" if self.classes is None else "accuracy"


def one_hot_targets(labels: np.ndarray) -> Targets:
    """Targets of integer labels [n] or [n, M]; what does not occur is no class."""
    labels = labels.reshape(len(labels), -1)
    columns = [labels[:, i, None] == np.unique(labels[:, i]) for i in range(labels.shape[1])]
    ends = np.cumsum([column.shape[1] for column in columns])
    starts = [0, *ends[:-1]]
    return Targets(np.concatenate(columns, 1).astype(np.float32), tuple(zip(starts, map(int, ends), strict=True)))


def probe(features: np.ndarray, targets: Sequence[Targets], episodes: np.ndarray) -> list[Score]:
    """How well each of several targets can be told from the same features.

    Args:
        features: [n, N].
        targets: of n rows each.
        episodes: [n] int, the episode that a row is of.
    """
    with threadpoolctl.threadpool_limits(1, "blas"):  # threads of OpenBLAS that wait for a busy CPU take minutes
        return _probe(features, targets, episodes)


def _probe(features: np.ndarray, targets: Sequence[Targets], episodes: np.ndarray) -> list[Score]:
    parts = _parts(episodes)
    losses = [np.zeros((2, 2, len(np.unique(episodes)), _components(target))) for target in targets]
    places = np.unique(episodes, return_inverse=True)[1]
    products = _products(features)
    ends = np.cumsum([target.values.shape[1] for target in targets])[:-1]
    values = np.concatenate([target.values for target in targets], 1)
    for fold in range(FOLDS):
        test, chosen_on = parts == fold, parts == (fold + 1) % FOLDS
        train = ~(test | chosen_on)
        if not (train.any() and test.any() and chosen_on.any()):
            continue
        mean = values[train].mean(0)
        validated, tested = _predictions(products, values, train, (chosen_on, test))
        for i, (target, loss) in enumerate(zip(targets, losses, strict=True)):
            guess = np.split(mean, ends)[i]
            ratios = [
                _mean_ratio(_losses(target, target.values[chosen_on], np.split(all_values, ends, 1)[i], guess).sum(1))
                for all_values in validated
            ]
            best = -1 if np.isnan(ratios).any() else int(np.argmin(ratios))
            for j, place in enumerate((best, -1)):
                prediction = np.split(tested[place], ends, 1)[i]
                of_rows = _losses(target, target.values[test], prediction, guess)
                np.add.at(loss[j].swapaxes(0, 1), places[test], of_rows.swapaxes(0, 1))
    return [_score(*loss) for loss in losses]


def _parts(episodes: np.ndarray) -> np.ndarray:
    """Which of FOLDS parts each row belongs to; those of an episode stay together."""
    names = np.unique(episodes)
    shuffled = np.random.default_rng(0).permutation(len(names)) % FOLDS
    return shuffled[np.searchsorted(names, episodes)]


def _components(target: Targets) -> int:
    return target.values.shape[1] if target.classes is None else len(target.classes)


def _products(features: np.ndarray) -> np.ndarray:
    """x x^T [n, n] of the features in deviations from their means; those that do not vary are left out."""
    deviation = features.std(0)
    varying = np.flatnonzero(deviation > _CONSTANT * deviation.max(initial=1e-30))
    products = np.zeros((len(features), len(features)))
    for columns in np.array_split(varying, 1 + len(varying) // _BLOCK):
        x = features[:, columns].astype(np.float64)
        x = (x - x.mean(0)) / deviation[columns]
        products += x @ x.T
    return products


def _predictions(
    products: np.ndarray, values: np.ndarray, train: np.ndarray, others: Sequence[np.ndarray]
) -> list[list[np.ndarray]]:
    """Of each of the other sets of rows, predictions [m, Y] with each penalty, and at last their mean alone."""
    mean = values[train].mean(0)
    among = products[np.ix_(train, train)]
    scale = np.trace(among)
    solutions = []
    for penalty in _PENALTIES if scale > 0 else ():
        factor = scipy.linalg.cho_factor(among + penalty * scale * np.eye(len(among)), check_finite=False)
        solutions.append(scipy.linalg.cho_solve(factor, values[train] - mean, check_finite=False))
    towards = [products[np.ix_(rows, train)] for rows in others]
    return [[mean + a @ x for x in solutions] + [np.tile(mean, (len(a), 1))] for a in towards]


def _losses(target: Targets, y: np.ndarray, prediction: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Of each row and component, what was lost and what could be lost: [2, n, components]."""
    if target.classes is None:
        return np.stack([(y - prediction) ** 2, (y - mean) ** 2])
    wrong = [y[:, a:b].argmax(1) != prediction[:, a:b].argmax(1) for a, b in target.classes]
    wrong = np.stack(wrong, 1).astype(float)
    return np.stack([wrong, np.ones_like(wrong)])


def _mean_ratio(sums: np.ndarray) -> float:
    """The mean of lost / could be lost over components [2, components] that vary; NaN where none does."""
    lost, possible = sums
    varying = possible > 1e-9
    return float(np.mean(lost[varying] / possible[varying])) if varying.any() else np.nan


def _score(best: np.ndarray, blind: np.ndarray) -> Score:
    """Of losses [2, episodes, components], with the best penalty and blind."""
    total = best.sum(1)
    count = best.shape[1]
    # Jackknife: the score without each of the episodes.
    without = np.array([_mean_ratio(total - best[:, i]) for i in range(count)])
    spread = np.sqrt((count - 1) * without.var()) if count > 1 else np.nan
    return Score(1 - _mean_ratio(total), float(spread), 1 - _mean_ratio(blind.sum(1)))
