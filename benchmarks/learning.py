"""Trains every memory core on five small tasks, with the same budget and number of parameters, and writes the table.

    python benchmarks/learning.py --out runs/learning               # all of it: a night on 2 cores
    python benchmarks/learning.py --out runs/learning --tasks parity --cores gru s5 --seeds 1
    python benchmarks/learning.py --out runs/learning --table docs/learning.md

Each cell is a `memrl train` of one of the scripts in benchmarks/tasks/, with all of its seeds in one program. A cell
that is done is not trained again and one that was cut off goes on, so that the same command may be given until all are
done; one that fails is named at the end, and the others go on. `--table` also writes the table as Markdown, and a
picture of each task's curves beside it.

The second part, `recall_by_state`, is recall of eight pairs by memories that are matrices, with keys of several widths:
the state grows with the keys, and the number of parameters stays.
"""

import concurrent.futures
import dataclasses
import json
import os
import queue
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tyro
from rich.console import Console
from rich.table import Table

from memrl import list_cores
from memrl.runner.metrics import read_metrics
from memrl.runner.pictures import curve_from_metrics, learning_curve

CONFIGS = Path(__file__).parent / "tasks"
TASKS = ("repeat_previous", "tmaze", "associative_recall", "position_only_cartpole", "parity")
EVERY = (*TASKS, "recall_by_state")
KEY_WIDTHS = (4, 8, 16, 32)
WITH_KEYS = ("deltanet", "gated_deltanet", "gla", "hgrn2", "retnet")
PAIRS = ("--env.num-pairs", "8", "--env.num-queries", "8", "--env.vocab-size", "32", "--chance-return", "0.0625")
# A gated memory unit reads another layer's memory.
ALONE = tuple("s5,gmu" if name == "gmu" else name for name in list_cores())


@dataclasses.dataclass(frozen=True)
class Options:
    """What to train."""

    out: Path
    """Folder of all runs."""
    tasks: tuple[str, ...] = EVERY
    """Names of tasks."""
    cores: tuple[str, ...] = ()
    """Names of cores, all when not given."""
    seeds: int = 3
    """Agents of each cell."""
    total_steps: int = 1_000_000
    """Environment steps of each agent."""
    parameters: str = "100k"
    """Parameters of every network, to which its width is chosen."""
    jobs: int = len(os.sched_getaffinity(0))
    """Cells trained at the same time, each on a core of its own."""
    table: Path | None = None
    """Also write the table, as Markdown, and the curves beside it."""


class Cell(NamedTuple):
    """A core on a task."""

    task: str
    core: str
    config: str
    arguments: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Where its run lies, within the folder of all runs."""
        return Path(self.task) / self.core.replace(",", "-")


def main(options: Options) -> None:
    """Trains what is not done yet and prints the table."""
    check_options(options)
    cells = [cell for task in options.tasks for cell in cells_of(task, options)]
    failed = train_all(cells, options)
    missing = {cell for cell, _ in failed}
    results = {cell: None if cell in missing else result_of(options.out / cell.folder) for cell in cells}
    Console(width=30 + 26 * len({cell.task for cell in cells})).print(table(results))
    if options.table:
        write_table(options.table, results, options)
    for cell, message in failed:
        print(f"{cell.task}, {cell.core}: {message}", file=sys.stderr)
    sys.exit(1 if failed else 0)


def check_options(options: Options) -> None:
    """Ends the program with one line for a name that is not known, or a place where nothing can be written."""
    mistakes = [f"task {name!r}, expected one of {', '.join(EVERY)}" for name in options.tasks if name not in EVERY]
    mistakes += [f"core {name!r}, expected one of {', '.join(ALONE)}" for name in options.cores if name not in ALONE]
    mistakes += [f"jobs is {options.jobs}, expected at least 1"] * (options.jobs < 1)
    if options.table and not options.table.parent.is_dir():
        mistakes.append(f"table is {options.table}, expected a file in a folder that exists")
    if mistakes:
        print(f"learning: {mistakes[0]}", file=sys.stderr)
        sys.exit(2)


def cells_of(task: str, options: Options) -> list[Cell]:
    """A cell for each core; in the second part for each width of keys and core."""
    match = ("--match", f"parameters={options.parameters}")
    if task == "recall_by_state":
        return [
            Cell(
                f"recall_keys_of_{width}",
                core,
                "associative_recall.py",
                (*match, *PAIRS, "--core.key-width", str(width)),
            )
            for width in KEY_WIDTHS
            for core in WITH_KEYS
            if core in (options.cores or WITH_KEYS)
        ]
    return [Cell(task, core, f"{task}.py", match) for core in options.cores or ALONE]


def train_all(cells: Sequence[Cell], options: Options) -> list[tuple[Cell, str]]:
    """Trains the cells that are not done, some at a time; returns those that failed, with what they said last."""
    done_before = [cell for cell in cells if (options.out / cell.folder / "evaluation.json").exists()]
    left = [cell for cell in cells if cell not in done_before]
    processors: queue.SimpleQueue[int] = queue.SimpleQueue()
    for processor in sorted(os.sched_getaffinity(0)):
        processors.put(processor)
    failed, done, started = [], 0, time.monotonic()
    for cell in done_before:
        config = json.loads((options.out / cell.folder / "config.json").read_text())
        if (config["seeds"], config["total_steps"]) != (options.seeds, options.total_steps):
            message = f"{options.out / cell.folder} has {config['seeds']} seeds of {config['total_steps']:,} steps"
            failed.append((cell, f"{message}, expected {options.seeds} of {options.total_steps:,}"))

    def work(cell: Cell) -> str | None:
        processor = processors.get()
        try:
            return train(cell, options, processor)
        finally:
            processors.put(processor)

    with concurrent.futures.ThreadPoolExecutor(min(options.jobs, processors.qsize())) as pool:
        futures = {pool.submit(work, cell): cell for cell in left}
        for future in concurrent.futures.as_completed(futures):
            cell, message, done = futures[future], future.result(), done + 1
            if message is not None:
                failed.append((cell, message))
            remaining = (time.monotonic() - started) / done * (len(left) - done)
            said = "failed" if message is not None else scores_text(result_of(options.out / cell.folder))
            print(f"{done}/{len(left)} {cell.task} {cell.core}: {said}; {remaining / 60:.0f} min left", flush=True)
    return failed


def train(cell: Cell, options: Options, processor: int) -> str | None:
    """Trains one cell on one processor; what it said last, if it failed."""
    folder = options.out / cell.folder
    command = [sys.executable, "-m", "memrl", "train", str(CONFIGS / cell.config), "--core", cell.core]
    command += ["--out", str(folder), "--total-steps", str(options.total_steps), "--seeds", str(options.seeds)]
    command += [*cell.arguments, "--track", *(["--resume"] if (folder / "config.json").exists() else [])]
    started = time.monotonic()
    finished = subprocess.run(
        ["taskset", "--cpu-list", str(processor), *command], capture_output=True, text=True, check=False
    )
    if finished.returncode:
        return (finished.stderr.strip() or finished.stdout.strip() or "it ended without a word").splitlines()[-1]
    (folder / "seconds.json").write_text(json.dumps(time.monotonic() - started))
    return None


def result_of(folder: Path) -> dict[str, Any] | None:
    """Greedy returns [S], width and seconds of a cell, or None where it is not done."""
    if not (folder / "evaluation.json").exists():
        return None
    evaluation = json.loads((folder / "evaluation.json").read_text())
    config = json.loads((folder / "config.json").read_text())
    seconds = folder / "seconds.json"
    return {
        "returns": evaluation["greedy"]["mean_return_per_seed"],
        "features": config["network"]["features"],
        "seconds": json.loads(seconds.read_text()) if seconds.exists() else None,
        "curve": curve_from_metrics(read_metrics(folder / "metrics.csv")),
        "best": config["best_return"],
        "chance": config["chance_return"],
    }


def scores_text(result: dict[str, Any] | None) -> str:
    """The mean over seeds and their range."""
    if result is None:
        return ""
    returns = result["returns"]
    mean = f"{statistics.mean(returns):.2f}"
    return mean if len(returns) == 1 else f"{mean} ({min(returns):.2f} to {max(returns):.2f})"


def rows_of(results: dict[Cell, dict[str, Any] | None]) -> tuple[list[str], list[list[str]]]:
    """The heads of the table and its rows: a row for each core, a column for each task."""
    tasks = list(dict.fromkeys(cell.task for cell in results))
    scores = {(cell.core, cell.task): scores_text(result) for cell, result in results.items()}
    widths = {cell.core: str(result["features"]) for cell, result in results.items() if result and cell.task in TASKS}
    cores = sorted({cell.core for cell in results})
    rows = [[core, widths.get(core, ""), *(scores.get((core, task), "") for task in tasks)] for core in cores]
    return ["core", "width", *tasks], rows


def table(results: dict[Cell, dict[str, Any] | None]) -> Table:
    """The results for people."""
    heads, rows = rows_of(results)
    result = Table(*heads)
    for row in rows:
        result.add_row(*row)
    return result


def write_table(path: Path, results: dict[Cell, dict[str, Any] | None], options: Options) -> None:
    """The results as Markdown, with a picture of the curves of each task."""
    heads, rows = rows_of(results)
    lines = [
        "# What each core learns",
        "",
        f"Greedy return after {options.total_steps:,} steps, the mean of {options.seeds} seeds and their range. All "
        f"networks have about {options.parameters} parameters. Written by `benchmarks/learning.py --table`.",
        "",
        "| " + " | ".join(heads) + " |",
        "|" + " --- |" * len(heads),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
    ]
    for task in dict.fromkeys(cell.task for cell in results):
        done = {cell.core: result for cell, result in results.items() if cell.task == task and result}
        if not done:
            continue
        picture = path.with_name(f"{path.stem}_{task}.png")
        known = {"best": next(iter(done.values()))["best"], "without memory": next(iter(done.values()))["chance"]}
        learning_curve(
            picture,
            {core: result["curve"] for core, result in done.items()},
            task,
            references={name: value for name, value in known.items() if value is not None},
            window=5,
        )
        lines += [f"![{task}]({picture.name})", ""]
    path.write_text("\n".join(lines))


if __name__ == "__main__":
    main(tyro.cli(Options))
