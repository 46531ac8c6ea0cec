"""Comparisons: every core in every environment, with every value of a sweep, each an ordinary run folder.

    <out>/comparison.json               what is compared
    <out>/ENV/CORE[/FIELD=VALUE,...]    a cell: a run, with all its seeds in one program
    <out>/logs/                         what processes that failed wrote to standard error

Cells that are finished are not trained again, and cells that were stopped go on, so that the same command may be given
until all are done.
"""

import contextlib
import dataclasses
import itertools
import json
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import rich.console
from rich.table import Table

from memrl.cores import core_name
from memrl.errors import MemrlError, check
from memrl.experiment import Experiment, assemble, experiment_to_json, with_cores, with_env
from memrl.runner.cell import Job
from memrl.runner.checkpoints import Checkpoints
from memrl.runner.console import duration
from memrl.runner.folder import RunFolder, write_json
from memrl.runner.group import shape_of
from memrl.runner.launcher import Ended, Launcher, LocalProcesses
from memrl.runner.match import match_width
from memrl.runner.overview import Overview, Standing
from memrl.runner.signals import Interrupted, noted_signals
from memrl.runner.sweep import Sweep, parse_sweep, with_value
from memrl.runner.trackers import TRACKERS
from memrl.runner.train import Member, RunOptions


@dataclasses.dataclass(frozen=True)
class Grid:
    """What to compare: all combinations are trained."""

    cores: tuple[str, ...] = ()
    """Names of cores, each one as `memrl train --core` takes it: gru, or s5,s5,window_attention for the layers in turn.
    The config's own when not given."""
    envs: tuple[str, ...] = ()
    """Names of environments, with their default options. The config's own when not given."""
    sweep: tuple[str, ...] = ()
    """Fields and their values: agent.learning-rate=1e-4,3e-4 or agent.trace=0.9:1.0:3, evenly spaced, or with :log
    after it in even ratios. Numbers of the agent that its program does not depend on are trained together in one."""
    match: str | None = None
    """Choose the width (network.features) of each cell: parameters=500k, or state=64KiB per environment."""


@dataclasses.dataclass(frozen=True)
class CompareOptions:
    """How a comparison is run; none of it changes the results, but for rounding."""

    jobs: int | None = None
    """Programs that run at the same time: one per processor when not given, or one where there is an accelerator."""
    together: int | None = None
    """Cells that differ only in numbers and are trained in one program, at most; all, but so that no processor is idle,
    when not given."""
    checkpoint_seconds: float = 60.0
    """Least time between two checkpoints of a cell."""
    track: tuple[str, ...] = ("tensorboard",)
    """Where curves go besides metrics.csv: tensorboard, wandb."""
    quiet: bool = False
    """Print nothing but errors."""


class Cell(NamedTuple):
    """One run of a comparison."""

    folder: Path  # within that of the comparison
    experiment: Experiment
    core: str  # as it was asked for
    sweep: dict[str, str]  # values by field, as they were written
    script: Path | None = None  # the config

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.folder.as_posix()


def compare(
    experiment: Experiment,
    grid: Grid,
    out: Path,
    options: CompareOptions = CompareOptions(),
    script: Path | None = None,
) -> dict[str, str]:
    """Trains all cells that are not finished, and prints a table; returns why cells failed, by name.

    Args:
        experiment: what all cells have in common.
        grid: in what they differ.
        out: the folder of all.
        options: how they are run.
        script: the config script that `experiment` is from, to be copied to the run folders.

    Raises:
        MemrlError: before anything is trained, for mistakes in any cell, or one that is there with another
            configuration.
        Interrupted: after SIGINT or SIGTERM; what was running has been saved.
    """
    cells = cells_of(experiment, grid, script)
    launcher = _ready(cells, out, options)
    write_json(out / "comparison.json", _description(cells, grid, experiment, script))
    failures = _train(cells, out, options, launcher)
    if not options.quiet:
        wide = None if sys.stdout.isatty() else 200
        rich.console.Console(width=wide).print(_table(cells, out, failures))
    return failures


def train_cells(cells: Sequence[Cell], out: Path, options: CompareOptions = CompareOptions()) -> dict[str, str]:
    """Trains those of any cells that are not finished; returns why some failed, by name. Raises as `compare`."""
    return _train(cells, out, options, _ready(cells, out, options))


def cells_of(experiment: Experiment, grid: Grid, script: Path | None = None) -> list[Cell]:
    """Every environment with every core and every value.

    Raises:
        MemrlError: that names every mistake.
    """
    sweeps = [parse_sweep(text) for text in grid.sweep]
    swept = [sweep.field for sweep in sweeps]
    for what, names in (("core", grid.cores), ("environment", grid.envs), ("sweep of", swept)):
        twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
        check(twice is None, f"compare: {what} {twice} is given twice")
    check(
        grid.match is None or "network.features" not in swept,
        f"compare: match is {grid.match!r} with a sweep of network.features, expected one of them, both choose it",
    )
    own = ",".join(core_name(core) for core in experiment.cores)
    cells, mistakes = [], {}
    for env, core in itertools.product(grid.envs or (experiment.env,), grid.cores or (None,)):
        name = f"{env} {core or own}"
        try:
            swapped = with_env(experiment if core is None else with_cores(experiment, core), env)
            some = _swept(swapped, sweeps, grid.match)
        except MemrlError as error:
            mistakes.setdefault(str(error), name)
            continue
        path = Path(env.replace("/", "-")) / (core or own).replace(",", "-")
        cells += [Cell(path / _sweep_name(values), e, core or own, values, script) for values, e in some]
    check(not mistakes, "compare: " + "; ".join(f"{name}: {mistake}" for mistake, name in mistakes.items()))
    return cells


def _swept(
    experiment: Experiment, sweeps: Sequence[Sweep], match: str | None
) -> list[tuple[dict[str, str], Experiment]]:
    """The experiment with all combinations of values, each one tried out as far as that takes no time."""
    found, widths = [], {}
    for values in itertools.product(*(sweep.values for sweep in sweeps)):
        chosen = {sweep.field: value for sweep, value in zip(sweeps, values, strict=True)}
        one = experiment
        for field, value in chosen.items():
            one = with_value(one, field, value)
        shape = shape_of(one)
        if shape not in widths:
            matched = one if match is None else match_width(one, match)
            jax.eval_shape(assemble(matched).agent.init, jax.random.key(0))
            widths[shape] = matched.network
        found.append((chosen, dataclasses.replace(one, network=widths[shape])))
    return found


def _sweep_name(values: dict[str, str]) -> str:
    return ",".join(f"{field}={value}" for field, value in values.items()).replace("/", "-")


def _description(cells: Sequence[Cell], grid: Grid, experiment: Experiment, script: Path | None) -> dict[str, Any]:
    """What comparison.json says."""
    return {
        "script": script,
        "cores": list(dict.fromkeys(cell.core for cell in cells)),
        "envs": list(dict.fromkeys(cell.experiment.env for cell in cells)),
        "sweep": {sweep.field: sweep.values for sweep in map(parse_sweep, grid.sweep)},
        "match": grid.match,
        "seeds": experiment.seeds,
        "total_steps": experiment.total_steps,
        "cells": [
            {"folder": cell.folder, "env": cell.experiment.env, "core": cell.core, "sweep": cell.sweep}
            for cell in cells
        ],
    }


def _ready(cells: Sequence[Cell], out: Path, options: CompareOptions) -> Launcher:
    """Makes the folder; raises `MemrlError` for what cannot be run."""
    for name in ("jobs", "together"):
        value = getattr(options, name)
        check(value is None or value >= 1, f"compare: {name} is {value}, expected at least 1")
    for name in options.track:
        TRACKERS[name]
    differences = [difference for cell in cells if (difference := _difference(cell, out))]
    check(not differences, "; ".join(differences))
    out.mkdir(parents=True, exist_ok=True)
    return LocalProcesses(options.jobs, out / "logs")


def _difference(cell: Cell, out: Path) -> str | None:
    """In what the run that is there is another one than the cell, if it is."""
    path = RunFolder(out / cell.folder).config_json
    if not path.exists():
        return None
    try:
        there = json.loads(path.read_text())
    except ValueError as error:
        return f"run folder {path.parent}: config.json is damaged: {error}"
    asked = json.loads(json.dumps(experiment_to_json(cell.experiment)))
    names = [name for name in {**asked, **there} if asked.get(name) != there.get(name)]
    if not names:
        return None
    name = names[0]
    return (
        f"run folder {path.parent} is of another run: {name} is {there.get(name)} there and {asked.get(name)} here; "
        "choose another folder with --out"
    )


def _is_finished(cell: Cell, out: Path) -> bool:
    return RunFolder(out / cell.folder).evaluation_json.exists()


def _train(cells: Sequence[Cell], out: Path, options: CompareOptions, launcher: Launcher) -> dict[str, str]:
    """Trains the cells that are not finished; returns why some failed, by name."""
    left = [cell for cell in cells if not _is_finished(cell, out)]
    jobs = _jobs(left, out, options, launcher.slots)
    cell_at = {out / cell.folder: cell for cell in left}
    names = {job.members[0].path: _job_name(job, cell_at) for job in jobs}
    work = {names[job.members[0].path]: sum(map(_work, job.members)) for job in jobs}
    failures: dict[str, str] = {}
    ended = 0
    with noted_signals(launcher.stop) as received, Overview(work, options.quiet) as overview:
        overview.message(_beginning(cells, left, jobs, min(launcher.slots, len(jobs))))
        for event in launcher.launch(jobs):
            name = names[event.job.members[0].path]
            if not isinstance(event, Ended):
                overview.update(name, Standing(event.phase, _fraction(event.job, event.env_steps), event.mean_return))
                continue
            overview.end(name, counts=not event.stopped and not any(event.failures))
            for member, failure in zip(event.job.members, event.failures, strict=True):
                cell = cell_at[member.path]
                if event.stopped:
                    overview.message(f"stopped  {cell.name}")
                    continue
                ended += 1
                if failure is not None:
                    failures[cell.name] = failure
                said = f"failed: {failure}" if failure else _result_text(cell, out)
                left_text = f"; {duration(s)} left" if (s := overview.seconds_left) and ended < len(left) else ""
                overview.message(f"{ended}/{len(left)}  {cell.name}  {said}{left_text}")
        if received and ended < len(left):
            done = sum(_is_finished(cell, out) for cell in cells)
            overview.message(f"stopped: {done} of {len(cells)} cells are finished; the same command goes on")
            raise Interrupted(received[0])
    with contextlib.suppress(OSError):
        (out / "logs").rmdir()  # where nothing failed
    return failures


def _jobs(cells: Sequence[Cell], out: Path, options: CompareOptions, slots: int) -> list[Job]:
    """The cells as jobs: together where one program can train them."""
    programs: dict[Any, list[Cell]] = {}
    for cell in cells:
        programs.setdefault((shape_of(cell.experiment), cell.script), []).append(cell)
    groups = [group for alike in programs.values() for group in _by_checkpoint(alike, out)]
    run_options = RunOptions(checkpoint_seconds=options.checkpoint_seconds, track=options.track, quiet=True)
    jobs = []
    for group in groups:
        parts = math.ceil(slots / len(groups))  # so many keep all processors busy
        most = options.together or math.ceil(len(group) / parts)
        for first in range(0, len(group), most):
            some = group[first : first + most]
            members = [
                Member(cell.experiment, out / cell.folder, RunFolder(out / cell.folder).config_json.exists())
                for cell in some
            ]
            jobs.append(Job(tuple(members), run_options, some[0].script))
    return jobs


def _by_checkpoint(cells: Sequence[Cell], out: Path) -> list[list[Cell]]:
    """Cells that can go on with the same update; those that have a checkpoint lose at most the last one by it."""
    updates = {cell.name: set(Checkpoints(RunFolder(out / cell.folder).checkpoints).updates()) for cell in cells}
    begun = [of for of in updates.values() if of]
    common = set.intersection(*begun) if begun else set()
    groups: dict[int, list[Cell]] = {}
    for cell in cells:
        newest = max(updates[cell.name], default=0)
        groups.setdefault(max(common) if newest and common else newest, []).append(cell)
    return list(groups.values())


def _job_name(job: Job, cell_at: dict[Path, Cell]) -> str:
    others = len(job.members) - 1
    return cell_at[job.members[0].path].name + (f" and {others} more" if others else "")


def _steps(experiment: Experiment) -> int:
    """Environment steps of each seed."""
    return experiment.num_updates * experiment.agent.steps_per_update


def _work(member: Member) -> int:
    return _steps(member.experiment) * member.experiment.seeds


def _fraction(job: Job, env_steps: int) -> float:
    return env_steps / _steps(job.members[0].experiment)


def _beginning(cells: Sequence[Cell], left: Sequence[Cell], jobs: Sequence[Job], slots: int) -> str:
    begun = sum(member.resume for job in jobs for member in job.members)
    parts = [f"{len(cells)} cells"]
    parts += [f"{len(cells) - len(left)} finished before"] if len(left) < len(cells) else []
    parts += [f"{begun} to go on"] if begun else []
    parts += [f"{len(jobs)} programs"] if len(jobs) < len(left) else []
    return ", ".join(parts) + (f"; {slots} at a time" if slots > 1 else "")


def _result_text(cell: Cell, out: Path) -> str:
    return f"return {_returns(_evaluation(cell, out), 'greedy')}"


def _evaluation(cell: Cell, out: Path) -> dict[str, Any]:
    return json.loads(RunFolder(out / cell.folder).evaluation_json.read_text())


def _returns(evaluation: dict[str, Any], policy: str) -> str:
    """The mean over seeds, and their deviation where there are several."""
    returns = [x for x in evaluation[policy]["mean_return_per_seed"] if x is not None]
    if not returns:
        return "none"
    spread = f" ± {statistics.pstdev(returns):.2g}" if len(returns) > 1 else ""
    return f"{statistics.fmean(returns):.3g}{spread}"


def _table(cells: Sequence[Cell], out: Path, failures: dict[str, str]) -> Table:
    """A row for each cell."""
    fields = list(dict.fromkeys(field for cell in cells for field in cell.sweep))
    table = Table("environment", "core", *fields, "width", "parameters", "greedy", "sampled", "steps/s", "time")
    for column in table.columns[2:]:
        column.justify = "right"
    for cell in cells:
        about = [cell.experiment.env, cell.core, *(cell.sweep.get(field, "") for field in fields)]
        row = [*about, str(cell.experiment.network.features)]
        if cell.name in failures or not _is_finished(cell, out):
            table.add_row(*row, "", "failed")
            continue
        evaluation, path = _evaluation(cell, out), RunFolder(out / cell.folder).facts_json
        facts = json.loads(path.read_text()) if path.exists() else None  # a run of an older version has none
        returns = [_returns(evaluation, policy) for policy in ("greedy", "sampled")]
        if facts is None:
            table.add_row(*row, "", *returns)
            continue
        seconds = facts["compile_seconds"] + facts["train_seconds"]
        table.add_row(
            *row, f"{facts['parameters']:,}", *returns, f"{facts['env_steps_per_second']:,.0f}", duration(seconds)
        )
    return table
