"""What a run costs: its sizes, its speed and the memory it took, in `facts.json`."""

import contextlib
import json
from pathlib import Path
from typing import Any

from memrl.runner.folder import write_json
from memrl.runner.memory import Sizes, peak_memory


class Facts:
    """The facts of a run while it trains; those of the parts before it was stopped are read from `path` and added to.

    Where one program trains several runs, each is given its share of the seconds, so that speeds of runs compare
    whether or not they were trained together; the memory is that of the program.
    """

    def __init__(self, path: Path, sizes: Sizes, compile_seconds: float):
        self._path = path
        self._sizes = sizes
        before = _read(path)
        self._compile_seconds = before.get("compile_seconds", 0.0) + compile_seconds
        self._train_seconds = before.get("train_seconds", 0.0)
        self._env_steps = self._train_seconds * before.get("env_steps_per_second", 0.0)
        self._peak_before = before.get("peak_memory_bytes", 0)

    def add(self, env_steps: int, seconds: float) -> None:
        """Counts steps of all seeds, and the seconds that they took."""
        self._env_steps += env_steps
        self._train_seconds += seconds

    def write(self) -> None:
        """Writes the facts so far."""
        content = {
            "parameters": self._sizes.parameters,
            "state_bytes": self._sizes.memory,
            "compile_seconds": self._compile_seconds,
            "train_seconds": self._train_seconds,
            "env_steps_per_second": self._env_steps / self._train_seconds if self._train_seconds else None,
            "peak_memory_bytes": max(peak_memory(), self._peak_before),
        }
        write_json(self._path, content)


def _read(path: Path) -> dict[str, Any]:
    """The numbers that stand there; none where the run is new, or of a version that wrote none."""
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(path.read_text())
        if isinstance(content, dict):
            return {name: value for name, value in content.items() if isinstance(value, int | float)}
    return {}
