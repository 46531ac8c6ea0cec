"""Drives an agent through a run: chunks of updates, and between them metrics, checkpoints, and Ctrl-C."""

import contextlib
import dataclasses
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from memrl.agents.grpo import PREFIX_ALIKE
from memrl.cores import CORES, core_name
from memrl.cores.neural_memory import INNER_LOSS
from memrl.errors import MemrlError
from memrl.experiment import Assembly, Experiment, assemble, experiment_to_json, seed_keys
from memrl.runner.checkpoints import Checkpoints
from memrl.runner.console import Console
from memrl.runner.evaluation import evaluate, summarise
from memrl.runner.folder import RunFolder, versions, write_json
from memrl.runner.memory import describe_memory, peak_memory, size_text
from memrl.runner.metrics import RETURN, MetricsFile, read_metrics
from memrl.runner.pictures import curve_from_metrics, learning_curve
from memrl.runner.program import LARGEST_CHUNK, compile_chunk, initial_states
from memrl.runner.saved import check_same_experiment
from memrl.runner.trackers import TRACKERS, Tracker, scalars


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
    quiet: bool = False
    """Print nothing but errors."""


class Interrupted(Exception):  # noqa: N818
    """The run was stopped by a signal, after its state was saved."""

    def __init__(self, signal_number: int):
        super().__init__(signal_number)
        self.signal_number = signal_number


def run(experiment: Experiment, path: Path, options: RunOptions = RunOptions(), script: Path | None = None) -> Path:
    """Trains, evaluates and draws; everything that a run leaves is in the folder `path`, which is returned.

    Raises:
        MemrlError: for a mistake in the experiment, a folder that cannot be used, or a loss that is not finite.
        Interrupted: after SIGINT or SIGTERM; the state is saved and `resume` continues it.
    """
    for name in options.track:
        TRACKERS[name]
    assembly = assemble(experiment)
    jax.eval_shape(assembly.agent.init, jax.random.key(0))  # sizes that do not fit show before anything is written
    with RunFolder.create(path, options.resume) as folder:
        if options.resume and folder.config_json.exists():
            check_same_experiment(experiment, folder)
        folder.write_config(experiment_to_json(experiment), script)
        write_json(folder.versions_json, versions())
        total = experiment.num_updates * experiment.agent.steps_per_update
        with Console(total, quiet=options.quiet) as console:
            states = _train(experiment, assembly, folder, options, console)
            console.evaluating()
            evaluation = evaluation_of(experiment, assembly, states, experiment.evaluation_episodes)
        write_json(folder.evaluation_json, evaluation)
        draw_learning_curve(experiment, folder)
        console.summary(_summary_rows(folder, evaluation))
    return folder.path


def _train(experiment: Experiment, assembly: Assembly, folder: RunFolder, options: RunOptions, console: Console) -> Any:
    """From the start or the last checkpoint to the end; returns the train states, leaves [S, ...]."""
    agent, total = assembly.agent, experiment.num_updates
    steps_per_update = experiment.agent.steps_per_update
    console.compiling()
    started = time.monotonic()
    states = initial_states(agent, experiment)
    checkpoints = Checkpoints(folder.checkpoints)
    update = 0
    if options.resume and checkpoints.updates():
        restored = checkpoints.restore(states)
        update, states = restored.update, restored.state
        for skipped in restored.skipped:
            console.message(f"damaged checkpoint skipped: {skipped}")
        console.message(f"resumed after update {update}")
    for line in describe_memory(agent, experiment, states):
        console.message(line)
    run_chunk = compile_chunk(agent, experiment.seeds, states)
    console.message(f"compiled in {time.monotonic() - started:.1f} s")
    console.training()
    chunk, saved_at = 1, time.monotonic()
    with (
        MetricsFile(folder.metrics_csv, update if options.resume else None) as metrics_file,
        _trackers(experiment, folder, options, update * steps_per_update) as trackers,
        _signals() as received,
    ):
        while update < total:
            count, began = min(chunk, total - update), time.monotonic()
            states, metrics = run_chunk(states, count)
            seconds_per_update = (time.monotonic() - began) / count
            metrics_file.append(update, steps_per_update, metrics)
            _check_finite(metrics, update, experiment, folder)
            update += count
            _log(trackers, metrics, update, steps_per_update)
            console.update(update * steps_per_update, metrics)
            stopped = bool(received) and update < total
            now = time.monotonic()
            if stopped or update == total or now - saved_at >= options.checkpoint_seconds:
                checkpoints.save(update, states)
                saved_at = time.monotonic()
            if stopped:
                console.message(f"stopped after update {update}; the same command with --resume continues")
                raise Interrupted(received[0])
            chunk = max(1, min(LARGEST_CHUNK, int(options.chunk_seconds / max(seconds_per_update, 1e-6))))
    return states


def _log(trackers: list[Tracker], metrics: dict[str, np.ndarray], update: int, steps_per_update: int) -> None:
    """Logs metrics [n, S] of the n updates up to `update`."""
    n = len(metrics[RETURN])
    for i in range(n if trackers else 0):
        values = scalars({name: row[i] for name, row in metrics.items()})
        for tracker in trackers:
            tracker.log((update - n + 1 + i) * steps_per_update, values)


def _check_finite(metrics: dict[str, np.ndarray], first_update: int, experiment: Experiment, folder: RunFolder) -> None:
    """Raises `MemrlError` that names the first update with a loss or gradient that is NaN or infinite, and the reason
    where it was measured."""
    bad = metrics["nonfinite_steps"] > 0  # [n, S]
    if not bad.any():
        return
    index = int(np.argmax(bad.any(axis=1)))
    seeds = np.flatnonzero(bad[index])
    what, look_at = _reason({name: values[index, seeds] for name, values in metrics.items()}, experiment)
    raise MemrlError(
        f"update {first_update + index}: {what} (seeds {seeds.tolist()}); the checkpoints in {folder.checkpoints} are "
        f"from before; look at {look_at}"
    )


def _reason(metrics: dict[str, np.ndarray], experiment: Experiment) -> tuple[str, str]:
    """What went wrong in an update, by its metrics [S], and where to look."""
    if not np.isfinite(metrics.get(INNER_LOSS, 0)).all():
        cores = [core_name(core) for core in experiment.cores]
        learning = " and ".join(dict.fromkeys(name for name in cores if INNER_LOSS in CORES[name].core.metrics))
        return (
            f"the inner loop of core {learning} has diverged, {INNER_LOSS} is not finite",
            "the core's max_learning_rate and max_gradient_norm, learning_rate, and the environment's observations",
        )
    if np.min(metrics.get(PREFIX_ALIKE, 1)) < 1:
        return (
            "the environments of a group have not seen the same in the first steps of the rollout",
            "the agent's prefix and shared_chance",
        )
    return (
        "loss or gradient is not finite",
        "learning_rate, max_gradient_norm, and the environment's rewards and observations",
    )


@contextlib.contextmanager
def _trackers(
    experiment: Experiment, folder: RunFolder, options: RunOptions, env_steps: int
) -> Iterator[list[Tracker]]:
    purge_step = env_steps if options.resume else None
    config = experiment_to_json(experiment)
    with contextlib.ExitStack() as stack:
        trackers = []
        for name in options.track:
            tracker = TRACKERS[name](folder.events, purge_step, config)
            stack.callback(tracker.close)
            trackers.append(tracker)
        yield trackers


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals that arrived; a second one ends the process at once. Only the main thread may listen to them."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def note(number: int, frame: Any) -> None:
        del frame
        if received:
            raise KeyboardInterrupt
        received.append(number)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def evaluation_of(experiment: Experiment, assembly: Assembly, states: Any, episodes: int) -> dict[str, Any]:
    """Summaries of the greedy and of the sampled policy."""
    keys = seed_keys(experiment)
    return {
        name: summarise(evaluate(assembly, states, keys, episodes, greedy=name == "greedy"))
        for name in ("greedy", "sampled")
    }


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
