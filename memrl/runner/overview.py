"""What a comparison says while it runs: bars on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import NamedTuple, Self, TextIO

import rich.console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

from memrl.runner.console import duration

_QUIET_SPELL = 30.0  # least seconds between two lines of a plain log that only say how far things are


class Standing(NamedTuple):
    """How far a job is."""

    phase: str
    fraction: float
    mean_return: float | None

    def __str__(self) -> str:
        said = "" if self.mean_return is None else f", return {self.mean_return:.3g}"
        return f"{self.phase} {self.fraction:.0%}{said}"


class Overview:
    """Progress of jobs, and how long they will take. A context manager; `quiet` prints nothing at all.

    Args:
        work: what each job has to do, by its name, in any one unit.
        stream: standard output unless given.
    """

    def __init__(
        self,
        work: Mapping[str, float],
        quiet: bool = False,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._work = work
        self._quiet = quiet
        self._stream = stream or sys.stdout
        self._clock = clock
        self._rich = rich.console.Console(file=self._stream, highlight=False)
        self._live = self._stream.isatty() and self._rich.is_interactive and not quiet
        self._began = self._last_line = clock()
        self._before: dict[str, float] = {}  # fractions that were done before: they say nothing about the speed
        self._fraction: dict[str, float] = {}
        self._standing: dict[str, Standing] = {}  # of jobs that run
        self._tasks: dict[str, TaskID] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Starts the bars."""
        if self._live:
            # Names come last: they may be longer than the line.
            text = TextColumn("{task.fields[details]}"), TextColumn("{task.description}")
            self._progress = Progress(BarColumn(bar_width=16), TaskProgressColumn(), *text, console=self._rich)
            self._stack.enter_context(self._progress)
            self._overall = self._progress.add_task("[bold]all", total=1.0, details="")
        return self

    def __exit__(self, *error: object) -> None:
        """Ends the bars."""
        self._stack.close()

    def update(self, job: str, standing: Standing) -> None:
        """A job that runs is so far."""
        self._standing[job] = standing
        if standing.fraction:
            self._before.setdefault(job, standing.fraction)
            self._fraction[job] = standing.fraction
        if self._live:
            if job not in self._tasks:
                self._tasks[job] = self._progress.add_task(job, total=1.0, details="")
            details = str(standing).replace(f" {standing.fraction:.0%}", "")
            self._progress.update(self._tasks[job], completed=standing.fraction, details=details)
            self._show_overall()
        elif self._clock() - self._last_line >= _QUIET_SPELL:
            running = "; ".join(f"{name} {of}" for name, of in self._standing.items())
            self.message(f"{self._done():4.0%}  {running}  {self._left_text()}".rstrip())

    def end(self, job: str, counts: bool = True) -> None:
        """A job runs no more; one that failed says nothing about the time that others take."""
        self._standing.pop(job, None)
        if counts:
            self._before.setdefault(job, 0.0)
            self._fraction[job] = 1.0
        else:
            self._work = {name: work for name, work in self._work.items() if name != job}
        if self._live:
            if job in self._tasks:
                self._progress.remove_task(self._tasks.pop(job))
            self._show_overall()

    def message(self, text: str) -> None:
        """Prints a line of its own, above the bars where there are some."""
        if self._quiet:
            return
        self._last_line = self._clock()
        if self._live:
            self._rich.print(text, markup=False, soft_wrap=True)
            return
        encoding = self._stream.encoding or "utf-8"  # a log with a narrow one must not end the comparison
        print(text.encode(encoding, "replace").decode(encoding), file=self._stream, flush=True)

    @property
    def seconds_left(self) -> float | None:
        """An estimate from the work done since the start; None before there was any."""
        done = sum(self._work.get(job, 0) * (f - self._before[job]) for job, f in self._fraction.items())
        left = sum(work * (1 - self._fraction.get(job, 0)) for job, work in self._work.items())
        return left * (self._clock() - self._began) / done if done > 0 else None

    def _done(self) -> float:
        total = sum(self._work.values())
        done = sum(self._work.get(job, 0) * fraction for job, fraction in self._fraction.items())
        return done / total if total else 1.0

    def _left_text(self) -> str:
        left = self.seconds_left
        return "" if left is None else f"{duration(left)} left"

    def _show_overall(self) -> None:
        self._progress.update(self._overall, completed=self._done(), details=self._left_text())
