"""What every worker does: describe itself, take turns, and say how much memory it took."""

import json
import resource
import sys
import time
from collections.abc import Callable


def take_turns(update: Callable[[], None], *, parameters: int = 0, compile_seconds: float = 0.0) -> None:
    """Runs `update`, which returns only when its results are there, whenever a line comes in."""
    print(json.dumps({"parameters": parameters, "compile_seconds": compile_seconds}), flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        update()
        print(json.dumps({"seconds": time.perf_counter() - started}), flush=True)
    # ru_maxrss is in KiB, except on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    print(json.dumps({"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6}), flush=True)
