"""Forward and backward through a memory that learns at test time, side by side with titans-pytorch.

    python benchmarks/titans.py              # memrl alone, without resets and with some
    python benchmarks/titans.py --peers      # also titans-pytorch 0.5.5: pip install titans-pytorch

One layer, 64 environments, 128 steps, width 32, a memory of two layers with 64 hidden units, chunks of 16 steps,
momentum and forgetting, gradients of all parameters and of the inputs. Each library runs in its own process; the
processes take turns, so that all of them meet the same machine, and what is compared is the ratio turn by turn.

titans-pytorch computes less: one gradient for a chunk where memrl has one for each step (see its worker).
"""

import dataclasses
import json
import statistics
from pathlib import Path
from typing import Annotated

import tyro
from processes import Worker
from rich.console import Console
from rich.table import Table

SIZES = {"steps": 128, "batch": 64, "width": 32, "chunk_length": 16, "reset_rate": 0.0, "batched": True}
FIRST = "memrl"
ARMS = {
    FIRST: ["memrl_titans.py", json.dumps(SIZES)],
    "memrl, a reset in 50 steps": ["memrl_titans.py", json.dumps(SIZES | {"reset_rate": 0.02})],
}
PEERS = {
    "titans-pytorch": ["titans_pytorch_memory.py", json.dumps(SIZES)],
    "titans-pytorch, all gradients at the first weights": [
        "titans_pytorch_memory.py",
        json.dumps(SIZES | {"batched": False}),
    ],
}


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    turns: int = 15
    """Forward and backward passes of each that are timed."""
    peers: bool = False
    """Also measure titans-pytorch."""
    out: Annotated[Path | None, tyro.conf.arg(help="Also write the numbers to this JSON file.")] = None


def main(options: Options) -> None:
    """Measures, prints the table, and writes the numbers."""
    workers = {name: Worker(command) for name, command in (ARMS | (PEERS if options.peers else {})).items()}
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(options.turns):
        for name, worker in workers.items():
            seconds[name].append(worker.turn())
    results = []
    for name, worker in workers.items():
        ratios = [s / first for s, first in zip(seconds[name], seconds[FIRST], strict=True)]
        results.append(
            {
                "name": name,
                "milliseconds": 1e3 * statistics.median(seconds[name]),
                "ratio": statistics.median(ratios),
                "ratio_range": [min(ratios), max(ratios)],
                "peak_mb": worker.close(),
            }
        )
    rows = Table("", "forward and backward", "times memrl's", "range", "peak memory")
    for r in results:
        low, high = r["ratio_range"]
        rows.add_row(
            r["name"],
            f"{r['milliseconds']:.1f} ms",
            f"{r['ratio']:.2f}",
            f"{low:.2f} - {high:.2f}",
            f"{r['peak_mb']:,.0f} MB",
        )
    Console(width=110).print(rows)
    if options.out:
        options.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
