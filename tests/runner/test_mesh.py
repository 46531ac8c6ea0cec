"""Training over a mesh of devices; what needs several of them is checked in mesh_program.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from memrl import Experiment, GRPOConfig, MemrlError, PPOConfig
from memrl.runner.layout import ONE_DEVICE, layout_of

HERE = Path(__file__).parent
QUICK = ["exchanges gru", "layouts gru", "defaults", "mistakes"]


def run_on_eight_devices(names: list[str]) -> list[str]:
    root = HERE.parents[1]
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(root),
    }
    command = [sys.executable, str(HERE / "mesh_program.py"), *names]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


def test_eight_devices_train_as_one_does():
    assert run_on_eight_devices(QUICK) == QUICK


@pytest.mark.slow
def test_eight_devices_train_every_kind_of_core_and_agent():
    assert len(run_on_eight_devices([])) > len(QUICK)


def test_one_device_has_no_mesh():
    experiment = Experiment(env="memory/TMaze")
    assert layout_of(experiment, None) is ONE_DEVICE
    assert layout_of(experiment, "data=1,seed=1") is ONE_DEVICE


@pytest.mark.parametrize(
    ("mesh", "expected"),
    [
        ("data=4", "mesh is 'data=4', 4 devices, expected as many as there are: 1"),
        ("data=0", "mesh is 'data=0', expected sizes of its axes, such as data=4,seed=2"),
        ("data=two", "expected sizes of its axes"),
        ("data=1,data=1", "expected sizes of its axes"),
        ("batch=1", "expected sizes of its axes"),
        ("", "mesh is '', expected sizes of its axes"),
    ],
)
def test_a_mesh_that_cannot_be(mesh: str, expected: str):
    with pytest.raises(MemrlError, match=expected):
        layout_of(Experiment(env="memory/TMaze"), mesh)


def test_how_far_environments_can_be_split():
    """By hand: whole sequences, or groups, so that each minibatch has as many from every part."""
    assert PPOConfig(num_envs=64, num_steps=128, minibatches=8).parts == 8
    assert PPOConfig(num_envs=64, num_steps=128, chunk_length=32, minibatches=8).parts == 32
    assert PPOConfig(num_envs=6, num_steps=8, chunk_length=4, minibatches=3).parts == 2  # 4 sequences of 6 environments
    assert GRPOConfig(num_envs=64, num_steps=8, group_size=8, minibatches=2).parts == 4
