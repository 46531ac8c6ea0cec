"""A process that trains the cells of a comparison that are one program.

    python -m memrl.runner.cell < job.json

It reads the job from its standard input, and writes what `Report` says to its standard output, one JSON object a line;
whatever else is printed goes to standard error.
"""

import dataclasses
import gc
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from memrl.config import from_json
from memrl.errors import one_line
from memrl.experiment import experiment_from_json, experiment_to_json
from memrl.runner.metrics import RETURN
from memrl.runner.program import enable_compilation_cache
from memrl.runner.signals import Interrupted
from memrl.runner.train import Member, RunOptions, open_runs, train_together

Report: TypeAlias = Callable[[dict[str, Any]], None]
"""Is told {"phase": str, "env_steps": int, "return": float or None} now and then, of the seeds' mean, and at the end
{"failures": [...]}: for each run why it failed, or None."""


@dataclasses.dataclass(frozen=True)
class Job:
    """Runs that are to be trained in one program."""

    members: tuple[Member, ...]
    options: RunOptions = RunOptions()
    script: Path | None = None
    """A config script to be copied to the run folders."""

    def to_json(self) -> str:
        """The job as text, for another process."""
        members = [(experiment_to_json(m.experiment), str(m.path), m.resume) for m in self.members]
        script = None if self.script is None else str(self.script)
        return json.dumps({"members": members, "options": dataclasses.asdict(self.options), "script": script})

    @classmethod
    def from_json(cls, text: str) -> "Job":
        """The job that `to_json` wrote."""
        data = json.loads(text)
        members = [Member(experiment_from_json(e), Path(path), resume) for e, path, resume in data["members"]]
        script = None if data["script"] is None else Path(data["script"])
        return cls(tuple(members), from_json(RunOptions, data["options"], "options"), script)


def main() -> None:
    """Trains the job on standard input; a failure of all its runs ends with one line, and a code other than 0."""
    pipe = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what others print must not get between the reports
    enable_compilation_cache()
    job = Job.from_json(sys.stdin.read())
    gc.freeze()
    try:
        train_job(job, _writer(pipe))
    except Interrupted as error:
        sys.exit(128 + error.signal_number)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        line = one_line(error)
        if line is None:
            raise
        print(line, file=sys.stderr)
        sys.exit(2)


def train_job(job: Job, report: Report) -> None:
    """Trains the runs of a job.

    Raises:
        MemrlError: for a mistake in an experiment, or a folder that cannot be used.
        Interrupted: after SIGINT or SIGTERM; the states are saved.
    """
    with open_runs(job.members, job.options, job.script) as runs:
        failures = train_together(runs, job.options, _Reporter(report))
    report({"failures": [None if failure is None else str(failure) for failure in failures]})


def _writer(pipe: Any) -> Report:
    def write(message: Mapping[str, Any]) -> None:
        try:
            print(json.dumps(message), file=pipe, flush=True)
        except BrokenPipeError:  # nobody listens any more: the run is to save and stop
            signal.raise_signal(signal.SIGTERM)

    return write


class _Reporter:
    """A `Watcher` that reports."""

    def __init__(self, report: Report):
        self._report = report
        self._phase = ""
        self._env_steps = 0
        self._return: float | None = None

    def compiling(self) -> None:
        self._enter("compiling")

    def training(self) -> None:
        self._enter("training")

    def evaluating(self) -> None:
        self._enter("evaluating")

    def update(self, env_steps: int, metrics: Mapping[str, np.ndarray]) -> None:
        self._env_steps = env_steps
        returns = metrics[RETURN][np.isfinite(metrics[RETURN])]
        self._return = float(returns.mean()) if returns.size else self._return
        self._say()

    def message(self, text: str) -> None:
        pass

    def summary(self, rows: list[tuple[str, str]]) -> None:
        pass

    def _enter(self, phase: str) -> None:
        self._phase = phase
        self._say()

    def _say(self) -> None:
        self._report({"phase": self._phase, "env_steps": self._env_steps, "return": self._return})


if __name__ == "__main__":
    main()
