"""Trains the tasks of configs/grpo_*.py with GRPO and with PPO, for as many environment steps, and draws the curves.

    python benchmarks/grpo_learning.py --out runs/grpo --docs docs

Both have the same network, environments, epochs, minibatches and learning rate; PPO has a critic besides, rollouts of
128 steps that go on where the last one ended, and where that is what its own config script says, another weight of the
entropy. A run that is done is not trained again. With `--docs` a picture of each task goes there.
"""

import dataclasses
import json
import runpy
import statistics
import sys
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from memrl import Experiment, PPOConfig
from memrl.runner.metrics import read_metrics
from memrl.runner.pictures import curve_from_metrics, learning_curve
from memrl.runner.train import RunOptions, run

CONFIGS = Path(__file__).parent.parent / "configs"
TASKS: dict[str, dict[str, Any]] = {  # what PPO needs to be other than GRPO
    "repeat_previous_easy": {"num_steps": 64},
    "tmaze_50": {"learning_rate": 5e-4, "minibatches": 8, "entropy_weight": 0.03},
    "bernoulli_bandit": {},
    "evidence_accumulation": {"num_steps": 64},
}


@dataclasses.dataclass(frozen=True)
class Options:
    """What to train."""

    out: Path
    """Folder of all runs."""
    tasks: tuple[str, ...] = tuple(TASKS)
    """Names of tasks."""
    seeds: int = 5
    """Agents of each run."""
    docs: Path | None = None
    """Folder for the pictures."""


def main(options: Options) -> None:
    """Trains what is not done yet, prints the table and draws."""
    for task in options.tasks:
        if task not in TASKS:
            print(f"grpo_learning: task {task!r}, expected one of {', '.join(TASKS)}", file=sys.stderr)
            sys.exit(2)
    rows = Table("task", "agent", "greedy", "sampled")
    for task in options.tasks:
        curves, experiment = {}, None
        for name, experiment in experiments_of(task, options.seeds).items():
            folder = options.out / task / name
            if not (folder / "evaluation.json").exists():
                run(experiment, folder, RunOptions(resume=(folder / "config.json").exists(), track=()))
            evaluation = json.loads((folder / "evaluation.json").read_text())
            rows.add_row(task, name, *(scores_text(evaluation[policy]) for policy in ("greedy", "sampled")))
            curves[name] = curve_from_metrics(read_metrics(folder / "metrics.csv"))
        if options.docs and experiment is not None:
            learning_curve(
                options.docs / f"grpo_{task}.png",
                curves,
                experiment.env,
                references=references(experiment),
                window=5,
            )
    Console(width=110).print(rows)


def experiments_of(task: str, seeds: int) -> dict[str, Experiment]:
    """The config script's, and the same with PPO."""
    grpo = runpy.run_path(str(CONFIGS / f"grpo_{task}.py"))["experiment"]
    shared = {
        name: getattr(grpo.agent, name)
        for name in ("num_envs", "epochs", "minibatches", "learning_rate", "schedule", "entropy_weight", "adam_beta2")
    }
    agents = {"grpo": grpo.agent, "ppo": PPOConfig(**{**shared, **TASKS[task]})}
    return {name: dataclasses.replace(grpo, agent=agent, seeds=seeds) for name, agent in agents.items()}


def scores_text(evaluation: dict[str, Any]) -> str:
    """The mean over seeds and their range."""
    returns = evaluation["mean_return_per_seed"]
    return f"{statistics.mean(returns):.3f} ({min(returns):.2f} to {max(returns):.2f})"


def references(experiment: Experiment) -> dict[str, float]:
    """Lines in the picture."""
    lines = {"best": experiment.best_return, "without memory": experiment.chance_return}
    return {name: value for name, value in lines.items() if value is not None}


if __name__ == "__main__":
    main(tyro.cli(Options))
