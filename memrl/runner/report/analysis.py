"""The numbers of a report, before anything is drawn."""

import dataclasses
import itertools
from typing import Any, NamedTuple

import numpy as np

from memrl.runner.comparable import Comparison, Entry, ScoreTable, Task, normalised, score_table
from memrl.runner.pictures import Curve, joined
from memrl.runner.statistics import (
    AGGREGATES,
    Estimate,
    estimate,
    interquartile_mean,
    mean_over_runs,
    performance_profile,
    probability_of_improvement,
)

CURVE_POINTS = 150  # of a learning curve on the page
EFFICIENCY_POINTS = 25
THRESHOLDS = np.linspace(0.0, 1.0, 101)
_FACTS = (
    "parameters",
    "state_bytes",
    "env_steps_per_second",
    "compile_seconds",
    "train_seconds",
    "peak_memory_bytes",
)


class Band(NamedTuple):
    """A curve with its confidence band."""

    x: np.ndarray  # [n]
    y: Estimate  # [n]


class Row(NamedTuple):
    """A label on a task, in numbers."""

    entry: Entry
    returns: Estimate  # mean over seeds of the chosen score, not normalised
    score: float  # the same normalised, NaN where bounds are not known
    mmer: float  # mean over seeds
    facts: dict[str, float]  # NaN where they are not known


class Findings(NamedTuple):
    """All that a report shows of runs, but for what is inside their memories."""

    comparison: Comparison
    kind: str  # of scores
    confidence: float
    rows: tuple[Row, ...]
    curves: dict[tuple[str, Task], Band]
    table: ScoreTable
    order: tuple[str, ...]  # labels, the best first
    aggregates: dict[str, dict[str, Estimate]]  # by statistic and label
    profiles: dict[str, Estimate]  # over THRESHOLDS, by label
    efficiency: dict[str, Band]  # interquartile mean over steps, by label
    improvement: dict[tuple[str, str], Estimate]  # probability that the first label beats the second
    efficiency_axis: str  # what its x is


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How intervals are made."""

    repetitions: int
    confidence: float


def analyse(comparison: Comparison, kind: str, sampling: Sampling) -> Findings:
    """Works out everything; the same runs give the same numbers."""
    table = score_table(comparison, kind)
    options: dict[str, Any] = dataclasses.asdict(sampling)
    scores = table.scores
    aggregates = {
        name: {label: estimate(statistic, x, **options) for label, x in scores.items()}
        for name, statistic in AGGREGATES.items()
    }
    entries = [entry for task in comparison.tasks for entry in comparison.of(task)]
    rows = tuple(_row(comparison, entry, kind, options) for entry in entries)
    efficiency, axis = _efficiency(comparison, table, options)
    return Findings(
        comparison=comparison,
        kind=kind,
        confidence=sampling.confidence,
        rows=rows,
        curves={(entry.label, entry.task): _learning_band(entry.curve, options) for entry in entries},
        table=table,
        order=_order(comparison, rows, aggregates),
        aggregates=aggregates,
        profiles={label: performance_profile(x, THRESHOLDS, **options) for label, x in scores.items()},
        efficiency=efficiency,
        improvement=_improvement(scores, options),
        efficiency_axis=axis,
    )


def binned(curve: Curve, points: int) -> Curve:
    """At most `points` points: the mean of the known returns of as many stretches of training, [points, S]."""
    n = len(curve.env_steps)
    bins = min(points, n)
    ends = np.linspace(0, n, bins + 1).round().astype(int)
    known = ~np.isnan(curve.returns)
    total = np.add.reduceat(np.where(known, curve.returns, 0.0), ends[:-1], axis=0)
    number = np.add.reduceat(known.astype(float), ends[:-1], axis=0)
    returns = np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0)
    return Curve(np.asarray(curve.env_steps)[ends[1:] - 1], returns)


def _learning_band(curve: Curve, options: dict[str, Any]) -> Band:
    steps, returns = binned(curve, CURVE_POINTS)
    return Band(steps, mean_over_runs(joined(steps, returns), **options))


def _row(comparison: Comparison, entry: Entry, kind: str, options: dict[str, Any]) -> Row:
    returns = entry.returns(kind)
    mean = Estimate(*(x[0] for x in mean_over_runs(returns[None], **options)))
    bounds = comparison.bounds.get(entry.task)
    score = float("nan") if bounds is None else float(normalised(mean.value, bounds))
    best = entry.returns("mmer")
    mmer = float(np.nanmean(best)) if np.isfinite(best).any() else float("nan")
    return Row(entry, mean, score, mmer, {name: _fact(entry, name) for name in _FACTS})


def _fact(entry: Entry, name: str) -> float:
    """The mean of a fact over the entry's runs, NaN where none of them knows it."""
    values = [run.facts[name] for run in entry.runs if run.facts and isinstance(run.facts.get(name), int | float)]
    return float(np.mean(values)) if values else float("nan")


def _order(
    comparison: Comparison, rows: tuple[Row, ...], aggregates: dict[str, dict[str, Estimate]]
) -> tuple[str, ...]:
    """By the interquartile mean where there is one, else by the mean return if there is a single task."""
    iqm = aggregates["interquartile mean"]
    values = {label: float(result.value) for label, result in iqm.items()}
    if not values and len(comparison.tasks) == 1:
        values = {row.entry.label: float(row.returns.value) for row in rows}
    return tuple(sorted(comparison.labels, key=lambda label: -np.nan_to_num(values.get(label, -np.inf), nan=-np.inf)))


def _efficiency(comparison: Comparison, table: ScoreTable, options: dict[str, Any]) -> tuple[dict[str, Band], str]:
    """The interquartile mean over training, and what its axis is: steps, or shares of totals that differ."""
    tasks = table.tasks
    if not table.scores:
        return {}, ""
    entries = {label: [comparison.entries[label, task] for task in tasks] for label in table.scores}
    points = min(EFFICIENCY_POINTS, *(len(e.curve.env_steps) for row in entries.values() for e in row))
    same = len({task.steps for task in tasks}) == 1
    x = (np.arange(points) + 1) / points * (tasks[0].steps if same else 1.0)
    result = {}
    for label, row in entries.items():
        columns = [
            normalised(_filled(binned(entry.curve, points).returns), comparison.bounds[entry.task]) for entry in row
        ]
        runs = min(column.shape[1] for column in columns)
        if runs:
            scores = np.stack([column[:, :runs] for column in columns], axis=-1)  # [points, R, M]
            result[label] = Band(x, estimate(interquartile_mean, scores, **options))
    return result, "environment steps" if same else "share of training"


def _filled(returns: np.ndarray) -> np.ndarray:
    """Returns [n, S] without gaps, joined linearly and level at the ends; seeds without any are left out."""
    kept = returns[:, ~np.isnan(returns).all(axis=0)]
    steps = np.arange(len(kept))
    columns = [np.interp(steps, steps[~np.isnan(c)], c[~np.isnan(c)]) for c in kept.T]
    return np.stack(columns, axis=1) if columns else kept


def _improvement(scores: dict[str, np.ndarray], options: dict[str, Any]) -> dict[tuple[str, str], Estimate]:
    """Both directions of each pair: what one wins the other loses."""
    result = {}
    for first, second in itertools.combinations(scores, 2):
        value, low, high = probability_of_improvement(scores[first], scores[second], **options)
        result[first, second] = Estimate(value, low, high)
        result[second, first] = Estimate(1 - value, 1 - high, 1 - low)
    return result
