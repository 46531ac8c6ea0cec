"""What a run writes while it trains: metrics, curves, checkpoints, facts."""

import contextlib
import dataclasses
from typing import Any, Self

import numpy as np

from memrl.errors import MemrlError
from memrl.experiment import Experiment, experiment_to_json
from memrl.runner.checkpoints import Checkpoints
from memrl.runner.divergence import check_finite
from memrl.runner.facts import Facts
from memrl.runner.folder import RunFolder
from memrl.runner.metrics import RETURN, MetricsFile
from memrl.runner.trackers import TRACKERS, Tracker, scalars


@dataclasses.dataclass
class Record:
    """The files of a run that goes on with `update`. A context manager: within it, they are open.

    Once the run has diverged it has a `failure`, and nothing more is written.
    """

    experiment: Experiment
    folder: RunFolder
    facts: Facts
    update: int  # updates done
    resume: bool
    track: tuple[str, ...]
    failure: MemrlError | None = None

    def __enter__(self) -> Self:
        """Drops what a resumed run had written of later updates, and opens the files."""
        with contextlib.ExitStack() as stack:
            path = self.folder.metrics_csv
            self._metrics_file = stack.enter_context(MetricsFile(path, self.update if self.resume else None))
            self._trackers = [self._tracker(name, stack) for name in self.track]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        """Closes the files."""
        self._stack.close()

    def append(self, metrics: dict[str, np.ndarray], seconds: float) -> None:
        """Writes metrics [n, S] of the next n updates, which took `seconds`."""
        if self.failure:
            return
        steps_per_update = self.experiment.agent.steps_per_update
        self._metrics_file.append(self.update, steps_per_update, metrics)
        try:
            check_finite(metrics, self.update, self.experiment, self.folder)
        except MemrlError as error:
            self.failure = error
            return
        n, seeds = metrics[RETURN].shape
        self.update += n
        self.facts.add(n * seeds * steps_per_update, seconds)
        for i in range(n if self._trackers else 0):
            values = scalars({name: row[i] for name, row in metrics.items()})
            for tracker in self._trackers:
                tracker.log((self.update - n + 1 + i) * steps_per_update, values)

    def save(self, states: Any) -> None:
        """Saves the train states [S, ...]."""
        if self.failure:
            return
        Checkpoints(self.folder.checkpoints).save(self.update, states)
        self.facts.write()

    def _tracker(self, name: str, stack: contextlib.ExitStack) -> Tracker:
        purge_step = self.update * self.experiment.agent.steps_per_update if self.resume else None
        tracker = TRACKERS[name](self.folder.events, purge_step, experiment_to_json(self.experiment))
        stack.callback(tracker.close)
        return tracker
