"""Run folders as `memrl train` leaves them, with returns made up and no checkpoint."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from memrl import NetworkConfig, PPOConfig, core_config
from memrl.experiment import Experiment, experiment_to_json
from memrl.runner.folder import write_json
from memrl.runner.metrics import MetricsFile

STEPS_PER_UPDATE = 64
AGENT = PPOConfig(num_envs=8, num_steps=8, minibatches=2)
FACTS = {
    "parameters": 12_345,
    "state_bytes": 2048,
    "compile_seconds": 6.25,
    "train_seconds": 130.0,
    "env_steps_per_second": 4321.0,
    "peak_memory_bytes": 700 * 2**20,
}


def make_run(
    path: Path,
    *,
    env: str = "popgym/RepeatPreviousEasy",
    core: str = "gru",
    returns: Any = (0.25, 0.5, 0.75),
    updates: int = 4,
    agent: PPOConfig = AGENT,
    metrics: int = 0,
    **fields: Any,
) -> Path:
    """A finished run whose seed s learns linearly from -0.5 to `returns[s]`, which the greedy policy earns at the end;
    the sampled one earns 0.1 less. `metrics` more columns of no meaning stand beside the returns."""
    path.mkdir(parents=True)
    final = np.asarray(returns, float)
    experiment = Experiment(
        env=env,
        core=core_config(core),
        network=NetworkConfig(features=16),
        agent=agent,
        total_steps=updates * STEPS_PER_UPDATE,
        seeds=len(final),
        **fields,
    )
    write_json(path / "config.json", experiment_to_json(experiment))
    curve = -0.5 + np.linspace(0, 1, updates)[:, None] * (final + 0.5)
    table = {"episode_return": curve.astype(np.float32)}
    table |= {f"metric_{i}": np.zeros_like(table["episode_return"]) for i in range(metrics)}
    with MetricsFile(path / "metrics.csv") as file:
        file.append(0, STEPS_PER_UPDATE, table)
    write_json(path / "evaluation.json", {"greedy": _summary(final), "sampled": _summary(final - 0.1)})
    write_json(path / "facts.json", FACTS)
    return path


def edit(path: Path, **fields: Any) -> None:
    """Changes fields of a JSON file; None removes one."""
    value = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({name: entry for name, entry in value.items() if entry is not None}))


def _summary(returns: np.ndarray) -> dict[str, Any]:
    return {"episodes_per_seed": 8, "unfinished": 0, "mean_return_per_seed": [float(x) for x in returns]}
