"""Workers: processes that take turns, so that all contenders meet the same machine, each with memory of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

WORKERS = Path(__file__).parent / "workers"


class Worker:
    """A process that takes turns: it says what it is, then does an update whenever it is told to."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None):
        """`command` is a file of benchmarks/workers with its arguments; `environment` is added to this process's."""
        self.process = subprocess.Popen(
            [sys.executable, str(WORKERS / command[0]), *command[1:]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        self.description = self._read()

    def turn(self) -> float:
        """Seconds of one update."""
        return self.ask("go")["seconds"]

    def ask(self, what: str) -> dict[str, Any]:
        """The numbers of one update, for a worker with several kinds of them."""
        assert self.process.stdin is not None
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return self._read()

    def close(self) -> float:
        """Ends the process; its peak memory in MB."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        peak = self._read()["peak_mb"]
        self.process.wait()
        return peak

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args} ended early with code {self.process.wait()}")
        return json.loads(line)
