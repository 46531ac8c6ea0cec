"""What a run says while it trains: a live bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Protocol, Self, TextIO

import numpy as np
import rich.console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

from memrl.runner.metrics import RETURN

_WINDOW = 30.0  # seconds over which the speed is measured
_QUIET_SPELL = 5.0  # least seconds between two lines of a plain log


class Watcher(Protocol):
    """Is told how a run gets on."""

    def compiling(self) -> None:
        """The program is being compiled."""
        ...

    def training(self) -> None:
        """Training goes on."""
        ...

    def evaluating(self) -> None:
        """The policy is being evaluated."""
        ...

    def update(self, env_steps: int, metrics: Mapping[str, np.ndarray]) -> None:
        """`env_steps` steps are done; the latest metrics are `[n, S]`."""
        ...

    def message(self, text: str) -> None:
        """A line of its own."""
        ...

    def summary(self, rows: list[tuple[str, str]]) -> None:
        """Names and values at the end of a run."""
        ...


class Console:
    """Progress of a run of `total_env_steps` environment steps, of which `env_steps` are done already.

    A context manager. `quiet` prints nothing at all. `stream` is standard output unless given.
    """

    def __init__(
        self,
        total_env_steps: int,
        env_steps: int = 0,
        quiet: bool = False,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._total = total_env_steps
        self._done = env_steps
        self._quiet = quiet
        self._stream = stream or sys.stdout
        self._clock = clock
        self._rich = rich.console.Console(file=self._stream, highlight=False)
        # FORCE_COLOR makes rich believe in a terminal where there is a log file.
        self._live = self._stream.isatty() and self._rich.is_interactive
        self._phase = "starting"
        self._return = ""
        self._marks: deque[tuple[float, int]] = deque()  # (time, env_steps), the speed's window
        self._last_line = -float("inf")
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Starts the bar."""
        if self._live and not self._quiet:
            self._progress = self._stack.enter_context(_progress(self._rich))
            self._task = self._progress.add_task("", total=self._total, phase="", steps="", details="")
            self._show()
        return self

    def __exit__(self, *error: object) -> None:
        """Ends the bar."""
        self._stack.close()

    def compiling(self) -> None:
        """Says that the program is being compiled."""
        self._enter_phase("compiling")

    def training(self) -> None:
        """Says that training goes on; the speed is measured from here."""
        self._enter_phase("training")

    def evaluating(self) -> None:
        """Says that the policy is being evaluated."""
        self._enter_phase("evaluating")

    def update(self, env_steps: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Shows that `env_steps` steps are done, and the returns in the latest metrics `[n, S]`."""
        self._done = env_steps
        now = self._clock()
        self._marks.append((now, env_steps))
        while len(self._marks) > 2 and self._marks[1][0] < now - _WINDOW:
            self._marks.popleft()
        self._return = return_text(metrics.get(RETURN, np.zeros((0, 0)))) or self._return
        self._show(urgent=env_steps >= self._total)

    def message(self, text: str) -> None:
        """Prints a line of its own, above the bar where there is one."""
        if self._quiet:
            return
        if self._live:
            self._rich.print(text, markup=False, soft_wrap=True)
        else:
            self._print(text)

    def summary(self, rows: list[tuple[str, str]]) -> None:
        """Prints names and values, one pair per line, in two columns."""
        width = max((len(name) for name, _ in rows), default=0)
        if self._live and not self._quiet:
            table = Table.grid(padding=(0, 2))
            for name, value in rows:
                table.add_row(Text(name, style="bold"), Text(value))
            self._rich.print(table)
        else:
            for name, value in rows:
                self.message(f"{name:<{width}}  {value}")

    @property
    def steps_per_second(self) -> float:
        """Environment steps per second over the last half minute of training; NaN before the first chunk."""
        if len(self._marks) < 2 or self._marks[-1][0] <= self._marks[0][0]:
            return float("nan")
        (begin, first), (end, last) = self._marks[0], self._marks[-1]
        return (last - first) / (end - begin)

    def _enter_phase(self, phase: str) -> None:
        changed, self._phase = phase != self._phase, phase
        self._marks.clear()
        if phase == "training":
            self._marks.append((self._clock(), self._done))
        # In a log, training speaks through its updates.
        if self._live or (changed and phase != "training"):
            self._show(urgent=True)

    def _show(self, urgent: bool = False) -> None:
        if self._quiet:
            return
        speed = self.steps_per_second
        if self._live:
            self._progress.update(
                self._task,
                completed=self._done,
                phase=self._phase,
                steps=f"{count(self._done)}/{count(self._total)} steps",
                details="  ".join(self._details(speed)),
            )
        elif urgent or self._clock() - self._last_line >= _QUIET_SPELL:
            self._last_line = self._clock()
            percent = f"{self._done / max(self._total, 1):4.0%}"
            steps = f"{self._done:,}/{self._total:,} steps"
            self._print("  ".join([f"{self._phase:<10}", percent, steps, *self._details(speed)]))

    def _details(self, speed: float) -> list[str]:
        parts = [self._return] if self._return else []
        if speed > 0:
            parts += [f"{count(speed)} steps/s", f"{duration((self._total - self._done) / speed)} left"]
        return parts

    def _print(self, text: str) -> None:
        # A log with a narrow encoding must not end the run over a "±".
        encoding = self._stream.encoding or "utf-8"
        print(text.encode(encoding, "replace").decode(encoding), file=self._stream, flush=True)


def return_text(returns: np.ndarray) -> str:
    """Mean and standard deviation over seeds of returns `[n, S]`, or "" where no episode ended."""
    known = ~np.isnan(returns)
    seeds = known.any(axis=0)
    per_seed = np.where(known, returns, 0).sum(axis=0)[seeds] / known.sum(axis=0)[seeds]
    if not seeds.any():
        return ""
    spread = f" ± {per_seed.std():.3g}" if len(per_seed) > 1 else ""
    return f"return {per_seed.mean():.3g}{spread}"


def count(number: float) -> str:
    """A number of steps in at most five characters: 950, 12.3k, 4.5M, 2B."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size * 0.9995:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


def duration(seconds: float) -> str:
    """Seconds as 0:42, 3:07 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _progress(console: rich.console.Console) -> Progress:
    columns = (
        TextColumn("[bold]{task.fields[phase]:<10}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TextColumn("{task.fields[steps]}  {task.fields[details]}"),
    )
    return Progress(*columns, console=console)
