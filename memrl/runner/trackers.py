"""Where a run's curves go while it trains: TensorBoard, Weights & Biases, or nowhere.

Trackers are a view; the record of a run is `metrics.csv`. Their packages are imported when a tracker is made.
"""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

from memrl.errors import MemrlError
from memrl.registry import Registry
from memrl.runner.metrics import RETURN


class Tracker(Protocol):
    """Receives numbers as training goes on."""

    def log(self, env_steps: int, metrics: Mapping[str, float]) -> None:
        """Records `metrics` as of `env_steps` environment steps; NaN means there is nothing to record."""
        ...

    def close(self) -> None:
        """Writes out what is left; the tracker is not used afterwards."""
        ...


# (folder, env_steps from which earlier records are replaced or None, resolved config) -> tracker
TrackerFactory: TypeAlias = Callable[[Path, int | None, Mapping[str, Any]], Tracker]

TRACKERS: Registry[TrackerFactory] = Registry("tracker")


def scalars(metrics: Mapping[str, np.ndarray]) -> dict[str, float]:
    """What trackers are given for the metrics `[S]` of one update: the mean over the seeds that have a value.

    With several seeds, `seed_<i>/episode_return` holds the return of each.
    """
    means = {name: _mean(np.asarray(values)) for name, values in metrics.items()}
    returns = np.asarray(metrics.get(RETURN, ()))
    if returns.size > 1:
        means |= {f"seed_{i}/{RETURN}": float(value) for i, value in enumerate(returns)}
    return means


class TensorBoard:
    """TensorBoard events in `folder`; with `purge_step`, earlier events at or after that step are hidden."""

    def __init__(self, folder: Path, purge_step: int | None = None):
        # Not SummaryWriter: its flush() leaves what its queue still holds, and a killed run would lose it.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2, summary_pb2

        Path(folder).mkdir(parents=True, exist_ok=True)
        self._event: Any = event_pb2
        self._summary: Any = summary_pb2
        # The library names files by the second: a quick restart would overwrite the file before.
        self._writer = EventsWriter(str(Path(folder) / "events"), filename_suffix=f".{time.time_ns()}")
        if purge_step is not None:
            start = self._event.SessionLog(status=self._event.SessionLog.START)
            self._write(purge_step, session_log=start)

    def log(self, env_steps: int, metrics: Mapping[str, float]) -> None:
        """Records and flushes, so that a killed run keeps its curves."""
        present = _present(metrics).items()
        values = [self._summary.Summary.Value(tag=name, simple_value=value) for name, value in present]
        self._write(env_steps, summary=self._summary.Summary(value=values))

    def close(self) -> None:
        """Closes the event file."""
        self._writer.close()

    def _write(self, step: int, **content: Any) -> None:
        self._writer.write_event(self._event.Event(wall_time=time.time(), step=step, **content))
        self._writer.flush()


class WandB:
    """A Weights & Biases run, named after the run folder that holds `folder`, drawn over `env_steps`.

    A resumed run continues the one whose id is kept in `folder`; what it computes again, it logs again.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], project: str = "memrl"):
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise MemrlError("tracker 'wandb' needs a package: pip install memrl[wandb]") from error
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        known = folder / "wandb_id"
        self._run = wandb.init(
            project=project,
            name=folder.absolute().parent.name,
            dir=str(folder),
            config=dict(config),
            id=known.read_text() if known.exists() else None,
            resume="allow",
        )
        known.write_text(self._run.id)
        self._run.define_metric("*", step_metric="env_steps")

    def log(self, env_steps: int, metrics: Mapping[str, float]) -> None:
        """Sends one record."""
        self._run.log({"env_steps": env_steps, **_present(metrics)})

    def close(self) -> None:
        """Uploads what is left."""
        self._run.finish()


TRACKERS.register("tensorboard", lambda folder, purge_step, config: TensorBoard(folder, purge_step))
TRACKERS.register("wandb", lambda folder, purge_step, config: WandB(folder, config))


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean(dtype=np.float64)) if known.size else math.nan


def _present(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if not math.isnan(value)}
