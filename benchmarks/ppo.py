"""PPO training speed, memory and compile time, side by side with other libraries.

    python benchmarks/ppo.py                     # memrl alone
    python benchmarks/ppo.py --peers             # also memorax and sb3-contrib: pip install -e ".[peers]"

The task is PositionOnlyCartPoleEasy with 64 environments, 128 steps, 4 epochs and 8 minibatches of whole sequences;
the network an encoder 128-256, a core of width 256, and two heads 128-128. Each library runs in its own process, so
that its peak memory is its own; the processes take turns, one update each, so that all of them meet the same machine.
Before that each is started several times more: compile time and peak memory are medians over all starts, ranges beside.

The yardstick is the rate of a float32 matrix product of 1024 cubed, measured before and after every turn. An update
counts 2 FLOP per parameter and step for the rollout, and 6 per parameter, step and epoch for learning.
"""

import dataclasses
import json
import statistics
from pathlib import Path
from typing import Annotated, Any

import tyro
from processes import Worker
from rich.console import Console
from rich.table import Table

STEPS, EPOCHS = 64 * 128, 4
ARMS = {"memrl gru": ["memrl_ppo.py", "gru"], "memrl s5, 4 layers": ["memrl_ppo.py", "s5"]}
PEERS = {"memorax gru": ["memorax_ppo.py"], "sb3-contrib lstm": ["sb3_ppo.py"]}


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    turns: int = 7
    """Updates of each library that are timed."""
    starts: int = 3
    """Times that each library is started, for compile time and peak memory."""
    peers: bool = False
    """Also measure memorax and sb3-contrib."""
    only: tuple[str, ...] = ()
    """Names of the arms to measure, all when not given."""
    out: Annotated[Path | None, tyro.conf.arg(help="Also write the numbers to this JSON file.")] = None


def main(options: Options) -> None:
    """Measures, prints the table, and writes the numbers."""
    arms = ARMS | (PEERS if options.peers else {})
    arms = {name: command for name, command in arms.items() if not options.only or name in options.only}
    compile_seconds: dict[str, list[float]] = {name: [] for name in arms}
    peaks: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(options.starts - 1):
        for name, command in arms.items():
            worker = Worker(command)
            worker.turn()
            compile_seconds[name].append(worker.description["compile_seconds"])
            peaks[name].append(worker.close())
    yardstick = Worker(["matmul.py"])
    workers = {name: Worker(command) for name, command in arms.items()}
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    rates: dict[str, list[float]] = {name: [] for name in workers}  # GFLOP/s of the matrix product
    for _ in range(options.turns):
        for name, worker in workers.items():
            before = yardstick.turn()
            seconds[name].append(worker.turn())
            rates[name].append(2 * 1024**3 / 1e9 / statistics.mean([before, yardstick.turn()]))
    results = []
    for name, worker in workers.items():
        compile_seconds[name].append(worker.description["compile_seconds"])
        peaks[name].append(worker.close())
        starts = compile_seconds[name], peaks[name]
        results.append(summarise(name, worker.description["parameters"], seconds[name], rates[name], *starts))
    yardstick.close()
    Console(width=110).print(table(results))
    if options.out:
        options.out.write_text(json.dumps(results, indent=2) + "\n")


def summarise(
    name: str,
    parameters: int,
    seconds: list[float],
    rates: list[float],
    compile_seconds: list[float],
    peaks: list[float],
) -> dict[str, Any]:
    """Medians over turns and starts; the share is taken turn by turn, so that a slow moment counts in both."""
    gflop = (2 + 6 * EPOCHS) * parameters * STEPS / 1e9
    shares = [gflop / s / rate for s, rate in zip(seconds, rates, strict=True)]
    return {
        "name": name,
        "parameters": parameters,
        "compile_seconds": statistics.median(compile_seconds),
        "compile_range": [min(compile_seconds), max(compile_seconds)],
        "steps_per_second": STEPS / statistics.median(seconds),
        "matrix_gflops": statistics.median(rates),
        "share": statistics.median(shares),
        "share_range": [min(shares), max(shares)],
        "peak_mb": statistics.median(peaks),
        "peak_range": [min(peaks), max(peaks)],
    }


def table(results: list[dict[str, Any]]) -> Table:
    """The results for people."""
    rows = Table("", "parameters", "compile", "steps/s", "matrix rate", "share of it", "peak memory")
    for r in results:
        low, high = r["share_range"]
        quick, slow = r["compile_range"]
        small, large = r["peak_range"]
        rows.add_row(
            r["name"],
            f"{r['parameters']:,}",
            f"{r['compile_seconds']:.1f} s ({quick:.1f}-{slow:.1f})",
            f"{r['steps_per_second']:,.0f}",
            f"{r['matrix_gflops']:.0f} GFLOP/s",
            f"{r['share']:.0%} ({low:.0%}-{high:.0%})",
            f"{r['peak_mb']:.0f} MB ({small:.0f}-{large:.0f})",
        )
    return rows


if __name__ == "__main__":
    main(tyro.cli(Options))
