"""From jobs to processes: where and when the cells of a comparison are trained."""

import collections
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from memrl.runner.cell import Job


class Progress(NamedTuple):
    """How far a job is."""

    job: Job
    phase: str  # starting, compiling, training, evaluating
    env_steps: int  # of each seed
    mean_return: float | None


class Ended(NamedTuple):
    """A job that runs no more."""

    job: Job
    failures: tuple[str | None, ...]  # for each of its runs why it failed, or None
    stopped: bool = False  # by a signal; what is not finished can be resumed


class Launcher(Protocol):
    """Runs jobs, on one machine or on many; the results do not depend on which."""

    @property
    def slots(self) -> int:
        """Jobs that run at the same time."""
        ...

    def launch(self, jobs: Sequence[Job]) -> Iterator[Progress | Ended]:
        """Runs the jobs, and says how they get on; each begins with a `Progress` and ends with an `Ended`.

        A job that never began, because of `stop`, says nothing.
        """
        ...

    def stop(self, signal_number: int) -> None:
        """Asks those that run to save and stop, and starts no more; may be called while `launch` waits."""
        ...


class LocalProcesses:
    """A `Launcher` of processes on this machine, each on processors of its own.

    Args:
        slots: how many at a time; without a number one per processor, or one alone where there is an accelerator.
        logs: a folder for what failing processes wrote to standard error.
    """

    def __init__(self, slots: int | None, logs: Path):
        self._logs = logs
        self._accelerated = has_accelerator()
        self._processors = _processors()
        self._slots = slots or (1 if self._accelerated else len(self._processors))
        self._running: dict[int, _Process] = {}  # by slot
        self._stop: int | None = None

    @property
    def slots(self) -> int:
        """Jobs that run at the same time."""
        return self._slots

    def launch(self, jobs: Sequence[Job]) -> Iterator[Progress | Ended]:
        """See `Launcher`."""
        waiting = collections.deque(enumerate(jobs))
        used = min(self._slots, max(len(jobs), 1))
        with selectors.DefaultSelector() as selector:
            try:
                while self._running or (waiting and self._stop is None):
                    for slot in range(used):
                        if slot not in self._running and waiting and self._stop is None:
                            number, job = waiting.popleft()
                            yield Progress(job, "starting", 0, None)
                            self._start(slot, used, number, job, selector)
                    for key, _ in selector.select(timeout=1.0):
                        process: _Process = key.data
                        yield from process.read()
                        if process.ended:
                            selector.unregister(key.fileobj)
                            del self._running[process.slot]
                            yield process.outcome(stopping=self._stop is not None)
            finally:
                for process in self._running.values():  # after an error here; what they saved is whole
                    process.kill()
                self._running.clear()

    def stop(self, signal_number: int) -> None:
        """See `Launcher`."""
        self._stop = signal_number
        for process in list(self._running.values()):
            process.send(signal_number)

    def _start(self, slot: int, slots: int, number: int, job: Job, selector: selectors.BaseSelector) -> None:
        processors = None if self._accelerated else _share(self._processors, slot, slots)
        process = _Process(job, slot, self._logs / f"{os.getpid()}_{number}.log", processors)
        self._running[slot] = process
        selector.register(process.pipe, selectors.EVENT_READ, process)
        if self._stop is not None:  # it came while the process was started
            process.send(self._stop)


class _Process:
    """A process that trains a job."""

    def __init__(self, job: Job, slot: int, log: Path, processors: set[int] | None):
        self.job = job
        self.slot = slot
        self.ended = False
        self._log = log
        self._failures: tuple[str | None, ...] | None = None
        self._rest = b""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as errors, tempfile.TemporaryFile() as written_job, _on(processors):
            written_job.write(job.to_json().encode())
            written_job.seek(0)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "memrl.runner.cell"],
                stdin=written_job,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,  # Ctrl-C on a terminal is for the parent, which passes it on
            )
        assert self._process.stdout is not None
        self.pipe = self._process.stdout

    def read(self) -> Iterator[Progress]:
        """What it has said meanwhile."""
        data = os.read(self.pipe.fileno(), 65536)
        self.ended = not data
        *lines, self._rest = (self._rest + data).split(b"\n")
        for message in map(json.loads, lines):
            if "failures" in message:
                self._failures = tuple(message["failures"])
            else:
                yield Progress(self.job, message["phase"], message["env_steps"], message["return"])

    def outcome(self, stopping: bool) -> Ended:
        """How it ended; its log stays where it says more than the outcome."""
        code = self._process.wait()
        self.pipe.close()
        if code == 0 and self._failures is not None:
            self._log.unlink()
            return Ended(self.job, self._failures)
        if stopping:
            self._log.unlink()
            return Ended(self.job, (None,) * len(self.job.members), stopped=True)
        lines = self._log.read_text(errors="replace").strip().splitlines()
        last = lines[-1].removeprefix("memrl: ") if lines else "it ended without a word"
        if code < 0:
            last = f"killed by {signal.Signals(-code).name}" + (", out of memory?" if code == -signal.SIGKILL else "")
        if len(lines) > 1:
            last += f" ({self._log} says more)"
        else:
            self._log.unlink()
        return Ended(self.job, (last,) * len(self.job.members))

    def send(self, signal_number: int) -> None:
        """Sends a signal, if it is there to hear it."""
        self._process.send_signal(signal_number)

    def kill(self) -> None:
        """Ends it at once."""
        self._process.kill()
        self._process.wait()
        self.pipe.close()


def has_accelerator() -> bool:
    """Whether JAX would use more than the CPU; this process's own back end is left alone."""
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return False
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    if not plugins and importlib.util.find_spec("jax_plugins") is None and importlib.util.find_spec("libtpu") is None:
        return False
    asked = subprocess.run(
        [sys.executable, "-c", "import jax; print(jax.default_backend())"], capture_output=True, text=True, check=False
    )
    return asked.returncode == 0 and asked.stdout.split()[-1:] != ["cpu"]


def _processors() -> list[int]:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _share(processors: Sequence[int], slot: int, slots: int) -> set[int]:
    """A slot's part of the processors."""
    return set(processors[slot::slots]) or {processors[slot % len(processors)]}


@contextlib.contextmanager
def _on(processors: set[int] | None) -> Iterator[None]:
    """A process that is started within runs on these processors: it inherits them from the thread that starts it."""
    if processors is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processors)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
