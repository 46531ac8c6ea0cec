"""Trains every memory core on five small tasks, with the same budget and number of parameters, and writes the table.

    python benchmarks/learning.py --out runs/learning               # all of it: a night on 2 cores
    python benchmarks/learning.py --out runs/learning --tasks parity --cores gru s5 --seeds 1
    python benchmarks/learning.py --out runs/learning --table docs/learning.md

Each task is a `memrl compare` of one of the scripts in benchmarks/tasks/, and all of them are run as one: what is done
is not trained again, and what was cut off goes on. `--table` also writes the table as Markdown, and a picture of each
task's curves beside it.

The second part, `recall_by_state`, is recall of eight pairs by memories that are matrices, with keys of several widths:
the state grows with the keys, and the number of parameters stays.
"""

import dataclasses
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import jax
import tyro
from rich.console import Console
from rich.table import Table

from memrl import MemrlError, list_cores
from memrl.cli import load_config
from memrl.runner import Interrupted
from memrl.runner.compare import Cell, CompareOptions, Grid, cells_of, train_cells
from memrl.runner.metrics import read_metrics
from memrl.runner.pictures import curve_from_metrics, learning_curve

CONFIGS = Path(__file__).parent / "tasks"
TASKS = ("repeat_previous", "tmaze", "associative_recall", "position_only_cartpole", "parity")
EVERY = (*TASKS, "recall_by_state")
KEY_WIDTHS = (4, 8, 16, 32)
WITH_KEYS = ("deltanet", "gated_deltanet", "gla", "hgrn2", "retnet")
PAIRS = {"num_pairs": 8, "num_queries": 8, "vocab_size": 32}
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
    jobs: int | None = None
    """Cells trained at the same time; one per processor when not given."""
    table: Path | None = None
    """Also write the table, as Markdown, and the curves beside it."""


Results = dict[tuple[str, str], dict[str, Any]]  # by task and core


def main(options: Options) -> None:
    """Trains what is not done yet and prints the table."""
    jax.config.update("jax_platforms", "cpu")  # the cells are trained by other processes
    try:
        check_options(options)
        tasks = {name: cells for task in options.tasks for name, cells in cells_of_task(task, options).items()}
        cells = [cell for some in tasks.values() for cell in some]
        failures = train_cells(cells, options.out, CompareOptions(jobs=options.jobs, track=()))
    except MemrlError as error:
        print(f"learning: {error}", file=sys.stderr)
        sys.exit(2)
    except Interrupted as error:
        sys.exit(128 + error.signal_number)
    results = {
        (task, cell.core): result_of(options.out / cell.folder)
        for task, some in tasks.items()
        for cell in some
        if cell.name not in failures
    }
    cores = sorted({cell.core for cell in cells})
    Console(width=30 + 26 * len(tasks)).print(table(results, list(tasks), cores))
    if options.table:
        write_table(options.table, results, list(tasks), cores, options)
    for name, failure in failures.items():
        print(f"{name}: {failure}", file=sys.stderr)
    sys.exit(1 if failures else 0)


def check_options(options: Options) -> None:
    """Raises `MemrlError` for a name that is not known, or a place where nothing can be written."""
    mistakes = [f"task {name!r}, expected one of {', '.join(EVERY)}" for name in options.tasks if name not in EVERY]
    mistakes += [f"core {name!r}, expected one of {', '.join(ALONE)}" for name in options.cores if name not in ALONE]
    if options.table and not options.table.parent.is_dir():
        mistakes.append(f"table is {options.table}, expected a file in a folder that exists")
    if mistakes:
        raise MemrlError(mistakes[0])


def cells_of_task(task: str, options: Options) -> dict[str, list[Cell]]:
    """A cell for each core, by task; in the second part for each width of keys and core."""
    script = CONFIGS / ("associative_recall.py" if task == "recall_by_state" else f"{task}.py")
    experiment = dataclasses.replace(load_config(script), seeds=options.seeds, total_steps=options.total_steps)
    cores, sweep = options.cores or ALONE, ()
    if task == "recall_by_state":
        cores = tuple(core for core in WITH_KEYS if core in cores)
        sweep = (f"core.key-width={','.join(map(str, KEY_WIDTHS))}",)
        experiment = dataclasses.replace(experiment, env_options=PAIRS, chance_return=0.0625)
    grid = Grid(cores=cores, sweep=sweep, match=f"parameters={options.parameters}")
    tasks: dict[str, list[Cell]] = {}
    for cell in cells_of(experiment, grid, script) if cores else []:
        name = f"recall_keys_of_{cell.sweep['core.key_width']}" if cell.sweep else task
        folder = Path(name) / cell.core.replace(",", "-")
        tasks.setdefault(name, []).append(cell._replace(folder=folder))
    return tasks


def result_of(folder: Path) -> dict[str, Any]:
    """Greedy returns [S] and width of a cell, and what its curve is drawn of."""
    evaluation = json.loads((folder / "evaluation.json").read_text())
    config = json.loads((folder / "config.json").read_text())
    return {
        "returns": evaluation["greedy"]["mean_return_per_seed"],
        "features": config["network"]["features"],
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


def rows_of(results: Results, tasks: list[str], cores: list[str]) -> tuple[list[str], list[list[str]]]:
    """The heads of the table and its rows: a row for each core, a column for each task."""
    widths = {core: str(result["features"]) for (task, core), result in results.items() if task in TASKS}
    rows = [[core, widths.get(core, ""), *(scores_text(results.get((task, core))) for task in tasks)] for core in cores]
    return ["core", "width", *tasks], rows


def table(results: Results, tasks: list[str], cores: list[str]) -> Table:
    """The results for people."""
    heads, rows = rows_of(results, tasks, cores)
    result = Table(*heads)
    for row in rows:
        result.add_row(*row)
    return result


def write_table(path: Path, results: Results, tasks: list[str], cores: list[str], options: Options) -> None:
    """The results as Markdown, with a picture of the curves of each task."""
    heads, rows = rows_of(results, tasks, cores)
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
    for task in tasks:
        done = {core: result for (of, core), result in results.items() if of == task}
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
