"""Runs put side by side: what was trained on the same task for as long, under which label, with which seeds.

Runs of one environment that had other options of it, or other numbers of steps, are on different tasks, which are never
averaged with each other.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from memrl.cores import core_name
from memrl.envs.known_returns import KnownReturns, known_returns
from memrl.errors import check
from memrl.experiment import Experiment
from memrl.runner.pictures import Curve, steps_text
from memrl.runner.results import Run, Skipped

SCORES = ("greedy", "sampled", "mmer")

# Fields of an experiment that say on which task an agent is, or how it is measured, but not what it is.
_OF_TASK = ("env", "env_options", "projection", "permute_actions", "trials", "total_steps")
_OF_MEASUREMENT = ("seed", "seeds", "evaluation_episodes", "best_return", "chance_return")
_MATTERS = {"device_kind": "kinds of device", "jax": "versions of jax"}  # in versions.json, for speed


class Task(NamedTuple):
    """What was to be done, and for how long."""

    name: str  # the environment with its options
    env: str
    steps: int  # environment steps of each seed


class Bounds(NamedTuple):
    """The returns that count as 0 and as 1."""

    zero: float
    zero_name: str  # what earns it
    one: float
    origin: str  # of both, in words


class Entry(NamedTuple):
    """What one label has done on one task: runs that differ in nothing but their seeds."""

    label: str
    task: Task
    runs: tuple[Run, ...]

    @property
    def seeds(self) -> np.ndarray:
        """The seeds, [S]."""
        return np.concatenate([run.seeds for run in self.runs])

    @property
    def curve(self) -> Curve:
        """Returns of training, of all seeds, [n, S]."""
        curves = [run.curve for run in self.runs]
        return Curve(curves[0].env_steps, np.concatenate([curve.returns for curve in curves], axis=1))

    def returns(self, kind: str) -> np.ndarray:
        """A return for each seed, [S]; see `Run.scores`."""
        return np.concatenate([run.scores(kind) for run in self.runs])


class Comparison(NamedTuple):
    """Everything that is known of some runs."""

    tasks: tuple[Task, ...]
    labels: tuple[str, ...]
    entries: dict[tuple[str, Task], Entry]
    bounds: dict[Task, Bounds]  # of tasks where they are known
    skipped: tuple[Skipped, ...]
    notices: tuple[str, ...]  # what is not compared, and why

    def of(self, task: Task) -> list[Entry]:
        """The entries of a task, in order of their labels."""
        return [self.entries[label, task] for label in self.labels if (label, task) in self.entries]


def compare_runs(runs: Sequence[Run], skipped: Sequence[Skipped] = ()) -> Comparison:
    """Sorts finished runs into tasks and labels."""
    tasks = _tasks(runs)
    labels = _labels(runs, tasks)
    grouped: dict[tuple[str, Task], list[Run]] = defaultdict(list)
    skipped = list(skipped)
    for run, task, label in zip(runs, tasks, labels, strict=True):
        group = grouped[label, task]
        twin = next((other for other in group if np.intersect1d(other.seeds, run.seeds).size), None)
        if twin is None:
            group.append(run)
        else:
            skipped.append(Skipped(run.path, f"repeats seeds of {twin.path}, which is the same experiment"))
    entries = {key: Entry(*key, tuple(group)) for key, group in grouped.items()}
    ordered = tuple(dict.fromkeys(tasks))
    bounds = {task: bounds_of([run for r, run in zip(tasks, runs, strict=True) if r == task]) for task in ordered}
    known = {task: b for task, b in bounds.items() if b is not None}
    comparison = Comparison(ordered, tuple(dict.fromkeys(labels)), entries, known, tuple(skipped), ())
    return comparison._replace(notices=tuple(_notices(comparison)))


class ScoreTable(NamedTuple):
    """Normalised scores of all labels on the tasks that all of them have: 0 is random, 1 the best possible."""

    tasks: tuple[Task, ...]  # M
    scores: dict[str, np.ndarray]  # [R, M] for each label
    notices: tuple[str, ...]  # what was left out


def score_table(comparison: Comparison, kind: str) -> ScoreTable:
    """The scores that statistics over several tasks are made of.

    A label has as many runs R on every task as on the one where it has fewest: first seeds count.
    """
    check(kind in SCORES, f"score is {kind!r}, expected one of {', '.join(SCORES)}")
    tasks, notices = _common_tasks(comparison)
    scores = {}
    for label in comparison.labels if tasks else ():
        columns = [normalised(comparison.entries[label, t].returns(kind), comparison.bounds[t]) for t in tasks]
        known = [column[np.isfinite(column)] for column in columns]
        runs = min(map(len, known))
        if not runs:
            notices.append(f"{label}: no {kind} score on {tasks[int(np.argmin(list(map(len, known))))].name}")
            continue
        if runs < max(map(len, columns)):
            notices.append(f"{label}: {runs} seeds of each task count, as many as it has scores on all of them")
        scores[label] = np.stack([column[:runs] for column in known], axis=1)
    return ScoreTable(tuple(tasks), scores, tuple(notices))


def normalised(returns: np.ndarray, bounds: Bounds) -> np.ndarray:
    """Returns as scores."""
    return (returns - bounds.zero) / (bounds.one - bounds.zero)


def bounds_of(runs: Sequence[Run]) -> Bounds | None:
    """The returns of random actions and of the best ones on the runs' task, None where they are not known.

    What an experiment says is best, counts; where no random return is known, its return without memory takes its place.
    """
    experiments = [run.experiment for run in runs]
    first = experiments[0]
    table = known_returns(first.env, first.env_options) if first.trials == 1 else None
    best = next((e.best_return for e in experiments if e.best_return is not None), None)
    chance = next((e.chance_return for e in experiments if e.chance_return is not None), None)
    if table is not None:
        bounds = Bounds(table.random, "random", *_best(table, best))
    elif best is not None and chance is not None:
        bounds = Bounds(chance, "without memory", best, "chance_return and best_return of the configuration")
    else:
        return None
    return bounds if bounds.one > bounds.zero else None


def _best(table: KnownReturns, best: float | None) -> tuple[float, str]:
    """The best return, and in words what both returns are."""
    if best is not None and best != table.best:
        return best, "random actions and best_return of the configuration"
    return table.best, "random actions and best possible" if table.reached else "random actions and an upper bound"


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields as "agent.learning_rate"; those of several cores by their place in the stack."""
    fields: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            fields |= flat(value, f"{prefix}{name}.")
        elif isinstance(value, list) and any(isinstance(entry, Mapping) for entry in value):
            fields |= flat({str(i): entry for i, entry in enumerate(value)}, f"{prefix}{name}.")
        else:
            fields[f"{prefix}{name}"] = value
    return fields


def agent_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration says of the agent, and not of its task or of how it is measured: see `flat`."""
    return flat({name: value for name, value in config.items() if name not in (*_OF_TASK, *_OF_MEASUREMENT)})


def _tasks(runs: Sequence[Run]) -> list[Task]:
    """The task of each run; its name says as much as tells it from the others."""
    names = [_environment(run.experiment) for run in runs]
    steps = [run.experiment.num_updates * run.experiment.agent.steps_per_update for run in runs]
    lengths = defaultdict(set)
    for name, count in zip(names, steps, strict=True):
        lengths[name].add(count)
    return [
        Task(
            name if len(lengths[name]) == 1 else f"{name}, {steps_text(count)} steps",
            run.experiment.env,
            count,
        )
        for run, name, count in zip(runs, names, steps, strict=True)
    ]


def _environment(experiment: Experiment) -> str:
    """The environment and what is special about it, in words."""
    options = {name.replace("_", " "): value for name, value in sorted(experiment.env_options.items())}
    if experiment.projection is not None:
        options["projection"] = experiment.projection
    if experiment.permute_actions:
        options["permute actions"] = True
    if experiment.trials > 1:
        options["trials"] = experiment.trials
    return ", ".join([experiment.env, *(f"{name} {value}" for name, value in options.items())])


def _labels(runs: Sequence[Run], tasks: Sequence[Task]) -> list[str]:
    """The cores of each run, and what else tells it from runs of the same cores on the same task."""
    bases = [",".join(map(core_name, run.experiment.cores)) for run in runs]
    fields = [agent_fields(run.config) for run in runs]
    groups = defaultdict(list)
    for i, (base, task) in enumerate(zip(bases, tasks, strict=True)):
        groups[base, task].append(fields[i])
    telling: dict[str, dict[str, None]] = defaultdict(dict)
    for (base, _), group in groups.items():
        telling[base] |= dict.fromkeys(_differing(group))
    return [
        " ".join([base, *(f"{_short(name)}={_text(own[name])}" for name in telling[base] if name in own)])
        for base, own in zip(bases, fields, strict=True)
    ]


def _differing(fields: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names that all have, with values that are not all the same."""
    names = [name for name in fields[0] if all(name in other for other in fields)]
    return [name for name in names if any(other[name] != fields[0][name] for other in fields)]


def _short(name: str) -> str:
    """The last part of a field's name; "agent" in the place of "agent.name"."""
    parts = name.split(".")
    return parts[-2] if parts[-1] == "name" else parts[-1]


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _common_tasks(comparison: Comparison) -> tuple[list[Task], list[str]]:
    """The tasks on which every label has runs and scores can be normalised, and a line for each other one."""
    tasks, notices = [], []
    for task in comparison.tasks:
        lacking = [label for label in comparison.labels if (label, task) not in comparison.entries]
        if task not in comparison.bounds:
            notices.append(f"{task.name}: random or best return not known, so its returns are not normalised")
        elif lacking:
            notices.append(f"{task.name}: no run of {', '.join(lacking)}, so it does not count over all tasks")
        else:
            tasks.append(task)
    return tasks, notices


def _notices(comparison: Comparison) -> list[str]:
    """Which tasks are of the same environment, which labels differ in their number of seeds, and runs in machines."""
    notices = []
    by_env = defaultdict(list)
    for task in comparison.tasks:
        by_env[task.env].append(task)
    for env, tasks in by_env.items():
        if len(tasks) > 1:
            listing = "; ".join(f"{task.name} ({steps_text(task.steps)} steps)" for task in tasks)
            notices.append(f"{env}: runs that differ in steps or options are not compared with each other: {listing}")
    for task in comparison.tasks:
        numbers = {entry.label: len(entry.seeds) for entry in comparison.of(task)}
        if len(set(numbers.values())) > 1:
            listing = ", ".join(f"{label} {number}" for label, number in numbers.items())
            notices.append(f"{task.name}: numbers of seeds differ: {listing}")
    runs = [run for entry in comparison.entries.values() for run in entry.runs]
    for name, what in _MATTERS.items():
        counts = Counter(str(run.versions[name]) for run in runs if run.versions and name in run.versions)
        if len(counts) > 1:
            listing = ", ".join(f"{value} ({number})" for value, number in counts.most_common())
            notices.append(f"runs are of several {what}: {listing}; their speeds do not compare")
    return notices
