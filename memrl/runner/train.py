"""Drives an agent through a run: chunks of updates, and between them metrics, checkpoints, and Ctrl-C."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from memrl.errors import MemrlError
from memrl.experiment import Experiment, experiment_to_json, seed_keys
from memrl.runner import hosts
from memrl.runner.checkpoints import Checkpoints
from memrl.runner.console import Console, Watcher
from memrl.runner.evaluation import Episodes, evaluate, summarise
from memrl.runner.facts import Facts
from memrl.runner.folder import RunFolder, versions, write_json
from memrl.runner.group import Group
from memrl.runner.memory import describe_sizes, peak_memory, size_text, sizes_of
from memrl.runner.metrics import RETURN, read_metrics
from memrl.runner.pictures import curve_from_metrics, learning_curve
from memrl.runner.program import LARGEST_CHUNK, compile_chunk
from memrl.runner.record import Record
from memrl.runner.saved import check_same_experiment
from memrl.runner.signals import Interrupted, noted_signals
from memrl.runner.trackers import TRACKERS


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """How a run is watched and kept; none of it changes the result."""

    resume: bool = False
    """Continue the run in the folder from its last checkpoint."""
    checkpoint_seconds: float = 60.0
    """Least time between two checkpoints."""
    chunk_seconds: float = 1.0
    """About how long Ctrl-C, the progress bar and metrics.csv may have to wait."""
    track: tuple[str, ...] = ("tensorboard",)
    """Where curves go besides metrics.csv: tensorboard, wandb."""
    mesh: str | None = None
    """Devices over which environments and seeds are split: data=4,seed=2. As many as can be used when not given."""
    quiet: bool = False
    """Print nothing but errors."""


class Member(NamedTuple):
    """A run to be trained."""

    experiment: Experiment
    path: Path
    """The run folder."""
    resume: bool = False
    """Whether to go on with what is there."""


def run(experiment: Experiment, path: Path, options: RunOptions = RunOptions(), script: Path | None = None) -> Path:
    """Trains, evaluates and draws; everything that a run leaves is in the folder `path`, which is returned.

    Raises:
        MemrlError: for a mistake in the experiment, a folder that cannot be used, or a loss that is not finite.
        Interrupted: after SIGINT or SIGTERM; the state is saved and `resume` continues it.
    """
    total = experiment.num_updates * experiment.agent.steps_per_update
    with open_runs([Member(experiment, Path(path), options.resume)], options, script) as runs:
        with Console(total, quiet=options.quiet or not runs.members) as console:
            failures = train_together(runs, options, console)
        for failure in failures:
            if failure:
                raise failure
    return Path(path)


class Runs(NamedTuple):
    """Runs of one program, and their folders, locked.

    Where several processes train them, all but the first have neither members nor folders, and write nothing.
    """

    group: Group
    members: Sequence[Member]
    folders: Sequence[RunFolder]


@contextlib.contextmanager
def open_runs(members: Sequence[Member], options: RunOptions, script: Path | None = None) -> Iterator[Runs]:
    """Runs that differ only in numbers of their agents, ready to be trained together.

    Raises:
        MemrlError: for a mistake in an experiment, or a folder that cannot be used.
    """
    for name in options.track:
        TRACKERS[name]
    group = Group(tuple(member.experiment for member in members), options.mesh)
    _ = group.layout  # a mesh that does not fit shows before anything is written
    jax.eval_shape(
        group.assembly.agent.init, jax.random.key(0)
    )  # sizes that do not fit show before anything is written
    members = members if hosts.is_first() else ()
    with contextlib.ExitStack() as stack:
        folders = [stack.enter_context(_open_folder(member, script)) for member in members]
        yield Runs(group, members, folders)


def _open_folder(member: Member, script: Path | None) -> RunFolder:
    folder = RunFolder.create(member.path, member.resume)
    try:
        if member.resume and folder.config_json.exists():
            check_same_experiment(member.experiment, folder)
        folder.write_config(experiment_to_json(member.experiment), script)
        write_json(folder.versions_json, versions())
    except BaseException:
        folder.close()
        raise
    return folder


def train_together(runs: Runs, options: RunOptions, watcher: Watcher) -> list[MemrlError | None]:
    """Trains, evaluates and draws; returns of each run why it failed, None where it did not.

    A run that diverges stops by itself, the others go on.

    Raises:
        Interrupted: after SIGINT or SIGTERM; the states are saved.
        MemrlError: where the system refuses to write, or the device has too little memory.
    """
    try:
        return _train_and_evaluate(runs, options, watcher)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise MemrlError(_out_of_memory(runs.group)) from error
    except OSError as error:
        raise MemrlError(
            f"{error.filename or runs.folders[0].path}: {error.strerror or error}; what was written before is whole, "
            "and the run can be resumed"
        ) from error


def _out_of_memory(group: Group) -> str:
    agent, config = group.assembly.agent, group.first.agent
    sizes = sizes_of(agent, jax.eval_shape(jax.vmap(agent.init), seed_keys(group.first)))
    return (
        f"out of memory on {group.layout}: train state {size_text(sizes.train_state)} and rollout "
        f"{size_text(sizes.rollout)} for each of {group.seeds} seeds, and several times that while it learns; lower "
        f"agent.num_envs, which is {config.num_envs}, agent.num_steps, which is {config.num_steps}, seeds or "
        "network.features"
    )


def _train_and_evaluate(runs: Runs, options: RunOptions, watcher: Watcher) -> list[MemrlError | None]:
    records, states = _train(runs, options, watcher)
    finished = [i for i, record in enumerate(records) if not record.failure]
    if finished:
        watcher.evaluating()
        for i, evaluation in zip(finished, _evaluate(runs.group, states, finished), strict=True):
            experiment, folder = records[i].experiment, runs.folders[i]
            draw_learning_curve(experiment, folder)
            records[i].facts.write()
            write_json(folder.evaluation_json, evaluation)  # last: it says that the run is finished
            watcher.summary(_summary_rows(folder, evaluation))
    return [record.failure for record in records]


class _Next(NamedTuple):
    """What all processes do after a chunk; the first decides."""

    signal: int  # that some process received, or 0
    over: bool
    save: bool
    chunk: int  # updates


def _train(runs: Runs, options: RunOptions, watcher: Watcher) -> tuple[list[Record], Any]:
    """From the start or the last checkpoints to the end; returns the records, and the group's states on one device."""
    group, experiment = runs.group, runs.group.first
    total, steps_per_update = experiment.num_updates, experiment.agent.steps_per_update
    watcher.compiling()
    started = time.monotonic()
    update, each = _restore(runs, watcher)
    sizes = sizes_of(group.assembly.agent, each[0])
    for line in describe_sizes(sizes, experiment.agent.num_envs):
        watcher.message(line)
    states = group.join(each)
    del each  # the program is given their memory
    run_chunk = compile_chunk(group.update, group.seeds, states, group.layout)
    compile_seconds = time.monotonic() - started
    watcher.message(f"compiled in {compile_seconds:.1f} s for {group.layout}")
    watcher.training()
    chunk, saved_at = 1, time.monotonic()
    with contextlib.ExitStack() as stack:
        records = []
        for member, folder in zip(runs.members, runs.folders, strict=True):
            if update < total:
                folder.evaluation_json.unlink(missing_ok=True)  # of fewer steps
            facts = Facts(folder.facts_json, sizes, compile_seconds / len(runs.members))
            record = Record(member.experiment, folder, facts, update, member.resume, options.track)
            records.append(stack.enter_context(record))
        received = stack.enter_context(noted_signals())
        over = update == total
        while not over:
            count, began = min(chunk, total - update), time.monotonic()
            states, metrics = run_chunk(states, count)
            seconds = time.monotonic() - began
            update += count
            for i, record in enumerate(records):
                record.append(group.metrics_of(metrics, i), seconds / len(records))
            watcher.update(update * steps_per_update, metrics)
            wanted = max(1, min(LARGEST_CHUNK, int(options.chunk_seconds / max(seconds / count, 1e-6))))
            due = time.monotonic() - saved_at >= options.checkpoint_seconds
            over = update == total or (bool(records) and all(record.failure for record in records))
            signal, over, save, chunk = _agree(_Next(received[0] if received else 0, over, due, wanted))
            stopped = bool(signal) and not over
            if stopped or save or update == total:
                gathered = group.layout.gather(states)
                for i, record in enumerate(records):
                    record.save(group.part(gathered, i))
                del gathered
                saved_at = time.monotonic()
            if stopped:
                watcher.message(f"stopped after update {update}; the same command with --resume continues")
                raise Interrupted(signal)
    return records, group.layout.gather(states)


def _agree(mine: _Next) -> _Next:
    rows = hosts.gather([int(x) for x in mine])
    signal = next((int(row[0]) for row in rows if row[0]), 0)
    _, over, save, chunk = map(int, rows[0])
    return _Next(signal, bool(over), bool(save), chunk)


def _restore(runs: Runs, watcher: Watcher) -> tuple[int, list[Any]]:
    """The updates done and the train states of each run: those of the newest checkpoint that all of them have."""
    group = runs.group
    first = group.first_states()
    if not hosts.several():
        found = _from_checkpoints(runs, first, watcher)
        return found or (0, [first] * len(group.experiments))
    here = group.layout.gather(first)
    update, states = (_from_checkpoints(runs, here, watcher) or (0, [here])) if runs.members else (0, [here])
    update = int(hosts.gather([update])[0, 0])
    return update, [group.place(hosts.from_first(states[0])) if update else first]


def _from_checkpoints(runs: Runs, like: Any, watcher: Watcher) -> tuple[int, list[Any]] | None:
    checkpoints = [Checkpoints(folder.checkpoints) for folder in runs.folders]
    if not any(m.resume and c.updates() for m, c in zip(runs.members, checkpoints, strict=True)):
        return None
    restored = [c.restore(like) for c in checkpoints]
    while len({r.update for r in restored}) > 1:
        oldest = min(r.update for r in restored)
        restored = [c.restore(like, last=oldest) for c in checkpoints]
    for skipped in (name for r in restored for name in r.skipped):
        watcher.message(f"damaged checkpoint skipped: {skipped}")
    watcher.message(f"resumed after update {restored[0].update}")
    return restored[0].update, [r.state for r in restored]


def _evaluate(group: Group, states: Any, chosen: Sequence[int]) -> list[dict[str, Any]]:
    """Summaries of the greedy and of the sampled policy of the chosen runs."""
    parts = [group.part(states, i) for i in chosen]
    seeds = group.first.seeds
    joined = parts[0] if len(parts) == 1 else jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
    keys = seed_keys(group.first)
    keys = keys if len(parts) == 1 else jnp.concatenate([keys] * len(parts))
    summaries = [{} for _ in chosen]
    for name in ("greedy", "sampled"):
        episodes = evaluate(group.assembly, joined, keys, group.first.evaluation_episodes, greedy=name == "greedy")
        for i, summary in enumerate(summaries):
            summary[name] = summarise(Episodes(*(x[i * seeds : (i + 1) * seeds] for x in episodes)))
    return summaries


def draw_learning_curve(experiment: Experiment, folder: RunFolder) -> None:
    """Draws the returns in metrics.csv, with the best and the chance return where they are known."""
    metrics = read_metrics(folder.metrics_csv)
    known = {"best": experiment.best_return, "without memory": experiment.chance_return}
    learning_curve(
        folder.learning_curve_png,
        {
            ", ".join(type(core).__name__.removesuffix("Config") for core in experiment.cores): curve_from_metrics(
                metrics
            )
        },
        title=experiment.env,
        references={name: value for name, value in known.items() if value is not None},
        window=max(1, len(metrics[RETURN]) // 50),
    )


def _summary_rows(folder: RunFolder, evaluation: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for name, result in evaluation.items():
        seeds = ", ".join("none" if r is None else f"{r:.3g}" for r in result["mean_return_per_seed"])
        rows.append((f"return, {name}", f"{seeds}  ({result['episodes_per_seed']} episodes per seed)"))
    rows.append(("peak memory", f"{size_text(peak_memory())} (process)"))
    rows.append(("learning curve", str(folder.learning_curve_png)))
    rows.append(("run folder", str(folder.path)))
    return rows
