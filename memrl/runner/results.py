"""What runs have left: one of them as Python values, and many of them found under folders."""

import dataclasses
import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from memrl.errors import MemrlError, check
from memrl.experiment import Experiment, experiment_from_json
from memrl.runner.folder import RunFolder
from memrl.runner.metrics import RETURN, read_metrics
from memrl.runner.pictures import Curve, curve_from_metrics
from memrl.runner.statistics import mmer

if TYPE_CHECKING:
    import pandas

    from memrl.policy import Policy

_MARKS = ("config.json", "metrics.csv", "versions.json")  # a folder with one of these is, or was to be, a run's


@dataclasses.dataclass(frozen=True)
class Run:
    """A run folder, read."""

    path: Path
    experiment: Experiment
    config: dict[str, Any]
    """The experiment as JSON values."""
    table: dict[str, np.ndarray]
    """The metrics as arrays; see `read_metrics`."""
    evaluation: dict[str, Any] | None
    """What evaluation.json says of the "greedy" and of the "sampled" policy; None before it is written."""
    facts: dict[str, Any] | None
    """Sizes and times, from facts.json; None before it is written."""
    versions: dict[str, Any] | None
    """Packages and machine, from versions.json."""

    @property
    def updates(self) -> int:
        """Updates whose metrics are there."""
        return len(self.table["update"])

    @property
    def finished(self) -> bool:
        """Whether training has come to its end, and was evaluated."""
        return self.evaluation is not None and self.updates >= self.experiment.num_updates

    @functools.cached_property
    def metrics(self) -> "pandas.DataFrame":
        """A row per update and seed, as in metrics.csv; `seed` is the run's own, `experiment.seed` and on."""
        import pandas  # half a second

        seeds, updates = len(self.table["seed"]), self.updates
        columns = {
            "seed": np.tile(self.seeds, updates),
            "update": np.repeat(self.table["update"], seeds),
            "env_steps": np.repeat(self.table["env_steps"], seeds),
        }
        metrics = {name: values.ravel() for name, values in self.table.items() if name not in columns}
        return pandas.DataFrame({**columns, **metrics})

    @property
    def seeds(self) -> np.ndarray:
        """The seeds of its agents, [S]."""
        return self.experiment.seed + np.arange(self.experiment.seeds)

    @property
    def curve(self) -> Curve:
        """Returns of training, [n, S]."""
        return curve_from_metrics(self.table)

    def scores(self, kind: str) -> np.ndarray:
        """A return for each seed, [S], NaN where no episode ended.

        Args:
            kind: "greedy" or "sampled", the mean return of that policy in the evaluation; "mmer", the maximum over
                training of the mean return.
        """
        if kind == "mmer":
            return mmer(self.table[RETURN])
        check(self.evaluation is not None, f"run {self.path}: no evaluation.json there, expected a finished run")
        returns = (self.evaluation or {}).get(kind, {}).get("mean_return_per_seed")
        check(
            isinstance(returns, list) and len(returns) == self.experiment.seeds,
            f"run {self.path}: evaluation.json holds no mean_return_per_seed of {kind} for each of its seeds",
        )
        return np.array([np.nan if x is None else x for x in returns or []], float)

    def policy(self, seed: int = 0, greedy: bool = True) -> "Policy":
        """The agent of the last checkpoint, ready to act; `seed` counts the run's seeds from 0.

        Raises:
            MemrlError: if there is no whole checkpoint, or no such seed.
        """
        from memrl.runner.acting import policy_of
        from memrl.runner.saved import load_saved

        return policy_of(load_saved(self.path), seed, greedy)


def load_run(path: str | Path) -> Run:
    """Reads a run folder, finished or not.

    run = memrl.load_run("runs/quickstart-gru")
    run.metrics.groupby("env_steps").episode_return.mean()

    Raises:
        MemrlError: if the folder holds no run, one of an older version, or damaged files.
    """
    folder = RunFolder(Path(path))
    check(folder.path.is_dir(), f"run {path}: not a folder, expected the folder of a run")
    config = _json(folder.config_json)
    check(config is not None, f"run {path}: no config.json there, expected the folder of a run")
    try:
        experiment = experiment_from_json(config or {})
    except MemrlError as error:
        raise MemrlError(f"run {path}: config.json is not of this version of memrl: {error}") from error
    table = read_metrics(folder.metrics_csv)
    seeds = len(table["seed"])
    check(
        seeds == experiment.seeds or not len(table["update"]),
        f"run {path}: metrics.csv holds {seeds} seeds, expected {experiment.seeds}, as in config.json",
    )
    check(RETURN in table, f"run {path}: metrics.csv holds no {RETURN}")
    facts, versions = _json(folder.path / "facts.json"), _json(folder.versions_json)
    return Run(folder.path, experiment, config or {}, table, _json(folder.evaluation_json), facts, versions)


class Skipped(NamedTuple):
    """A folder that was left out, and why."""

    path: Path
    reason: str


class Collection(NamedTuple):
    """Finished runs, and what was found beside them."""

    runs: tuple[Run, ...]
    skipped: tuple[Skipped, ...]


def collect_runs(paths: Sequence[str | Path]) -> Collection:
    """Reads the finished runs in `paths`: run folders, or folders with run folders somewhere in them.

    A run that is unfinished, of an older version or damaged is skipped, with the reason.

    Raises:
        MemrlError: for a path that does not exist, or holds no run folder at all.
    """
    runs, skipped, seen = [], [], set()
    for path in map(Path, paths):
        check(path.is_dir(), f"{path} is not a folder, expected a run folder, or a folder of run folders")
        found = list(_run_folders(path))
        check(bool(found), f"{path} holds no run folder, which is one with a config.json")
        for folder in found:
            if folder.resolve() in seen:
                continue
            seen.add(folder.resolve())
            try:
                run = load_run(folder)
                reason = _unfinished(run)
            except MemrlError as error:
                skipped.append(Skipped(folder, str(error).removeprefix(f"run {folder}: ")))
                continue
            if reason:
                skipped.append(Skipped(folder, reason))
            else:
                runs.append(run)
    return Collection(tuple(runs), tuple(skipped))


def _run_folders(path: Path) -> Iterator[Path]:
    """The run folders in a folder, by name; there are none inside of a run folder."""
    if any((path / mark).exists() for mark in _MARKS):
        yield path
        return
    for entry in sorted(path.iterdir()):
        if entry.is_dir() and not entry.name.startswith("."):
            yield from _run_folders(entry)


def _unfinished(run: Run) -> str:
    """Why a run is not whole, or nothing."""
    updates, total = run.updates, run.experiment.num_updates
    if updates < total:
        return f"unfinished: metrics.csv ends after update {updates} of {total}"
    if run.evaluation is None:
        return "unfinished: no evaluation.json there"
    for kind in ("greedy", "sampled"):
        run.scores(kind)
    return ""


def _json(path: Path) -> dict[str, Any] | None:
    """What a JSON file holds, None if it is not there."""
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise MemrlError(f"run {path.parent}: {path.name} is damaged: {' '.join(str(error).split())}") from error
    check(isinstance(value, dict), f"run {path.parent}: {path.name} is damaged: it holds no fields by name")
    return value
