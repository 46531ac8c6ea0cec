"""A run that is killed, interrupted or damaged loses nothing but time."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from quick import quick_environment

from memrl.errors import MemrlError
from memrl.runner import load_saved
from memrl.runner.checkpoints import Checkpoints
from memrl.runner.metrics import read_metrics

CONFIG = """
from memrl import Experiment, GRUConfig, NetworkConfig, PPOConfig
experiment = Experiment(
    env="popgym/PositionOnlyCartPoleEasy",
    core=GRUConfig(),
    network=NetworkConfig(features=16, encoder_sizes=(), head_sizes=(16,)),
    agent=PPOConfig(num_envs=8, num_steps=16, minibatches=2, epochs=2, normalise_observations=True),
    total_steps=40 * 8 * 16,
    seeds=2,
    evaluation_episodes=4,
)
"""
GRPO = CONFIG.replace("PPOConfig", "GRPOConfig").replace(
    "num_envs=8, num_steps=16", "group_size=4, unfinished='count', prefix=8, num_envs=8, num_steps=16"
)
# A checkpoint after every update, so that kills find something to break.
COMMAND = ["train", "small.py", "--chunk-seconds", "0", "--checkpoint-seconds", "0", "--quiet"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("faults")
    (path / "small.py").write_text(CONFIG)
    (path / "grpo.py").write_text(GRPO)
    return path


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**quick_environment(), "JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}
    return subprocess.Popen(
        [sys.executable, "-m", "memrl", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    output, error = process.communicate(timeout=300)
    return process.returncode, output, error


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Path:
    """A run from start to end."""
    code, _, error = finish(start(folder, *COMMAND, "--out", "undisturbed"))
    assert code == 0, error
    return folder / "undisturbed"


def wait_for_update(run: Path, update: int) -> None:
    """Returns once the metrics of `update` are on disk."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        file = run / "metrics.csv"
        if file.exists() and any(line.startswith(f"0,{update},") for line in file.read_text().splitlines()):
            return
        time.sleep(0.01)
    raise TimeoutError(f"update {update} never came")


def freeze_between_checkpoints(process: subprocess.Popen[str], run: Path) -> None:
    """Stops the process while it writes no checkpoint: amid one, Orbax's threads would each log their error."""
    process.send_signal(signal.SIGSTOP)
    while list(run.glob("checkpoints/.tmp_*")):
        process.send_signal(signal.SIGCONT)
        time.sleep(0.01)
        process.send_signal(signal.SIGSTOP)


def same_files(one: Path, other: Path) -> Iterator[str]:
    """Names of the results that differ between two runs, down to the last bit."""
    if (one / "metrics.csv").read_bytes() != (other / "metrics.csv").read_bytes():
        yield "metrics.csv"
    if (one / "evaluation.json").read_bytes() != (other / "evaluation.json").read_bytes():
        yield "evaluation.json"
    import jax

    states = [load_saved(run).states for run in (one, other)]
    for (path, a), b in zip(jax.tree.leaves_with_path(states[0]), jax.tree.leaves(states[1]), strict=True):
        if jax.numpy.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        if np.asarray(a).tobytes() != np.asarray(b).tobytes():
            yield jax.tree_util.keystr(path)


def test_kill_and_resume_is_bit_exact(folder: Path, undisturbed: Path):
    run = folder / "killed"
    process = start(folder, *COMMAND, "--out", "killed")
    for update in (0, 7, 23):  # before and between checkpoints, three times in the same run
        wait_for_update(run, update)
        process.kill()
        finish(process)
        assert len(read_metrics(run / "metrics.csv")["update"]) < 40, "the run was over before it was killed"
        process = start(folder, *COMMAND, "--out", "killed", "--resume")
    code, _, error = finish(process)
    assert code == 0, error
    assert list(same_files(undisturbed, run)) == []


def test_interrupt_saves_and_resumes(folder: Path, undisturbed: Path):
    run = folder / "interrupted"
    slow = [*COMMAND[:4], "--checkpoint-seconds", "1000"]  # only the interrupt saves
    process = start(folder, *slow, "--out", "interrupted")
    wait_for_update(run, 3)
    process.send_signal(signal.SIGINT)
    code, output, error = finish(process)
    assert code == 130, error
    assert "--resume" in output
    assert error == ""
    assert len(Checkpoints(run / "checkpoints").updates()) == 1
    assert finish(start(folder, *slow, "--out", "interrupted", "--resume"))[0] == 0
    assert list(same_files(undisturbed, run)) == []


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux")
def test_a_full_disk_stops_the_run_and_loses_nothing(folder: Path, undisturbed: Path):
    """From some moment on no file may grow, as on a disk without space."""
    process = start(folder, *COMMAND, "--out", "full")
    wait_for_update(folder / "full", 3)
    freeze_between_checkpoints(process, folder / "full")
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1, 1))
    process.send_signal(signal.SIGCONT)
    code, output, error = finish(process)
    assert code == 2, error
    assert error.startswith("memrl: full")
    assert "File too large; what was written before is whole" in error
    assert error.count("\n") == 1, error
    assert output == ""
    assert Checkpoints(folder / "full/checkpoints").updates()
    assert not list(folder.glob("full/checkpoints/.tmp_*"))
    code, _, error = finish(start(folder, *COMMAND, "--out", "full", "--resume"))
    assert code == 0, error
    for name in ("metrics.csv", "evaluation.json"):
        assert (folder / "full" / name).read_bytes() == (undisturbed / name).read_bytes()


def test_damaged_checkpoint_is_skipped(folder: Path, undisturbed: Path):
    run = folder / "damaged"
    process = start(folder, *COMMAND, "--out", "damaged")
    wait_for_update(run, 10)
    process.kill()
    finish(process)
    newest = sorted((run / "checkpoints").glob("update_*"))[-1]
    largest = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
    code, output, error = finish(start(folder, *COMMAND[:-1], "--out", "damaged", "--resume"))
    assert code == 0, error
    assert f"damaged checkpoint skipped: {newest.name}" in output
    assert list(same_files(undisturbed, run)) == []


def test_diverged_run_stops_and_keeps_its_checkpoint(folder: Path):
    process = start(folder, *COMMAND, "--out", "diverged", "--agent.learning-rate", "1e25")
    code, _, error = finish(process)
    assert code == 2
    assert error.count("\n") == 1
    assert "update " in error
    assert "not finite" in error
    assert "learning_rate" in error
    assert Checkpoints(folder / "diverged" / "checkpoints").updates() != [40]


def test_an_inner_loop_that_diverges_is_named(folder: Path):
    memory = ["--core", "titans", "--core.width", "4", "--core.max-learning-rate", "1e30"]
    code, _, error = finish(start(folder, *COMMAND, "--out", "inner", *memory))
    assert code == 2
    assert error.count("\n") == 1
    assert "the inner loop of core titans has diverged, inner_loss is not finite" in error
    assert "max_learning_rate" in error
    assert not np.isfinite(read_metrics(folder / "inner" / "metrics.csv")["inner_loss"][-1]).all()


def test_too_little_memory_says_what_to_lower(folder: Path):
    """A rollout of 400 GiB."""
    large = ["--agent.num-steps", "100000000", "--total-steps", "1600000000"]
    code, _, error = finish(start(folder, *COMMAND, "--out", "large", *large))
    assert code == 2, error
    assert error.startswith("memrl: out of memory on 1 cpu device: train state ")
    assert "lower agent.num_envs, which is 8, agent.num_steps, which is 100000000, seeds or network.features" in error
    assert error.count("\n") == 1, error


def test_a_prefix_that_is_not_shared_is_named(folder: Path):
    """What a cart-pole shows depends on what was done, from the second step on."""
    code, _, error = finish(start(folder, "train", "grpo.py", "--quiet", "--out", "prefix"))
    assert code == 2
    assert error.count("\n") == 1
    assert "update 0: the environments of a group have not seen the same in the first steps" in error
    assert "look at the agent's prefix" in error


def test_resume_of_another_experiment_is_refused(folder: Path, undisturbed: Path):
    before = json.loads((undisturbed / "config.json").read_text())
    process = start(folder, *COMMAND, "--out", "undisturbed", "--resume", "--agent.discount", "0.5")
    code, _, error = finish(process)
    assert code == 2
    assert "discount" in error
    assert json.loads((undisturbed / "config.json").read_text()) == before


def test_eval_of_a_run(folder: Path, undisturbed: Path):
    code, output, error = finish(start(folder, "eval", "undisturbed", "--episodes", "3"))
    assert code == 0, error
    assert "greedy" in output
    assert "sampled" in output
    assert finish(start(folder, "eval", "undisturbed", "--episodes", "3"))[1] == output


def test_run_folder_is_self_contained(undisturbed: Path):
    names = {p.name for p in undisturbed.iterdir()}
    assert names >= {
        "config.json", "config.py", "versions.json", "metrics.csv",
        "events", "checkpoints", "evaluation.json", "learning_curve.png",
    }  # fmt: skip
    metrics = read_metrics(undisturbed / "metrics.csv")
    assert metrics["episode_return"].shape == (40, 2)
    assert metrics["env_steps"][-1] == 40 * 8 * 16
    evaluation = json.loads((undisturbed / "evaluation.json").read_text())
    assert len(evaluation["greedy"]["mean_return_per_seed"]) == 2


def test_load_saved_names_the_folder(tmp_path: Path):
    with pytest.raises(MemrlError, match=r"config\.json"):
        load_saved(tmp_path)
