"""Steps per second of one run by several processes of one thread each, against one such process.

    python benchmarks/hosts.py
    python benchmarks/hosts.py --config configs/repeat_previous_easy_s5.py --processes 2 --turns 5

Each process is bound to a processor of its own, and the experiment is the same: 2 processes have half the environments
each. The runs take turns; compiling is not counted.
"""

import dataclasses
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    config: Path = Path("configs/quickstart.py")
    """Config script."""
    cores: tuple[str, ...] = ("gru", "s5")
    """Memory cores, in the place of the script's."""
    processes: int = 2
    """Processes of the larger run."""
    steps: int = 262_144
    """Environment steps of a run."""
    turns: int = 5
    """Times that each is measured; the median counts."""


def main(options: Options) -> None:
    """Measures and prints the table."""
    table = Table("core", "1 process", f"{options.processes} processes", "ratio", "ratios")
    for core in options.cores:
        pairs = [(measure(options, core, 1), measure(options, core, options.processes)) for _ in range(options.turns)]
        one, more = (statistics.median(speeds) for speeds in zip(*pairs, strict=True))
        ratios = sorted(after / before for before, after in pairs)
        spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        table.add_row(core, f"{one:,.0f}/s", f"{more:,.0f}/s", f"{statistics.median(ratios):.2f}", spread)
    Console(width=100).print(table)


def measure(options: Options, core: str, processes: int) -> float:
    """Environment steps per second of a run."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        common = ["--core", core, "--total-steps", str(options.steps), "--evaluation-episodes", "1", "--quiet"]
        command = [sys.executable, "-m", "memrl", "train", str(options.config), *common, "--out", str(out), "--track"]
        where = ["--distributed", "--coordinator", f"127.0.0.1:{free_port()}", "--processes", str(processes)]
        started = [
            start([*command, *where, "--process", str(i)] if processes > 1 else command, processor)
            for i, processor in zip(range(processes), sorted(os.sched_getaffinity(0)), strict=False)
        ]
        assert len(started) == processes, f"processes is {processes}, expected no more than there are processors"
        for process in started:
            _, error = process.communicate()
            assert process.returncode == 0, error
        return json.loads((out / "facts.json").read_text())["env_steps_per_second"]


def start(command: list[str], processor: int) -> "subprocess.Popen[Any]":
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {processor})  # is inherited
    try:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    finally:
        os.sched_setaffinity(0, before)


def free_port() -> int:
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


if __name__ == "__main__":
    main(tyro.cli(Options))
