"""A run whose environments are stepped on the host, from the command line: whole, and refused where it cannot go on."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

CONFIG = """
from memrl import Experiment, NetworkConfig, PPOConfig
experiment = Experiment(
    env="gymnasium/CartPole-v1",
    env_options={"max_steps_in_episode": 20},
    network=NetworkConfig(features=8, encoder_sizes=(), head_sizes=()),
    agent=PPOConfig(num_envs=2, num_steps=8, minibatches=1, epochs=1),
    total_steps=2 * 16,
    seeds=2,
    evaluation_episodes=4,
)
"""


def memrl(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "memrl", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def test_train_evaluates_and_is_not_resumed(tmp_path):
    pytest.importorskip("gymnasium", reason="gymnasium is not installed")
    (tmp_path / "small.py").write_text(CONFIG)
    trained = memrl(tmp_path, "train", "small.py", "--out", "run")
    assert trained.returncode == 0, trained.stderr
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    for name in ("greedy", "sampled"):
        assert evaluation[name]["unfinished"] == 0
        assert len(evaluation[name]["mean_return_per_seed"]) == 2
        assert 1 <= evaluation[name]["mean_return"] <= 20

    resumed = memrl(tmp_path, "train", "small.py", "--out", "run", "--resume", "--total-steps", "64")
    assert resumed.returncode == 2
    assert "a run on the host cannot be resumed" in resumed.stderr
    assert "Traceback" not in resumed.stderr
