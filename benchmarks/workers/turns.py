"""What every worker does: describe itself, take turns, and say how much memory it took."""

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any


def take_turns(update: Callable[[], None], *, parameters: int = 0, compile_seconds: float = 0.0) -> None:
    """Runs `update`, which returns only when its results are there, whenever a line comes in."""

    def measure(_: str) -> dict[str, float]:
        started = time.perf_counter()
        update()
        return {"seconds": time.perf_counter() - started}

    answer_turns(measure, parameters=parameters, compile_seconds=compile_seconds)


def answer_turns(measure: Callable[[str], dict[str, float]], **description: Any) -> None:
    """Answers each line that comes in with the numbers that `measure` gives for it."""
    print(json.dumps(description), flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(line.strip())), flush=True)
    # ru_maxrss is in KiB, except on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    print(json.dumps({"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6}), flush=True)
