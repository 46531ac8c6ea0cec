"""Runs that one program trains: each learns what it would learn alone."""

import dataclasses
import json
import shutil
from typing import Any

import jax
import numpy as np
import pytest

from memrl import Experiment, GRPOConfig, GRUConfig, MemrlError, NetworkConfig, PPOConfig
from memrl.runner.checkpoints import Checkpoints
from memrl.runner.console import Console
from memrl.runner.group import Group, shape_of
from memrl.runner.metrics import read_metrics
from memrl.runner.program import compile_chunk
from memrl.runner.train import Member, RunOptions, open_runs, run, train_together

SIZES: dict[str, Any] = {"num_envs": 8, "num_steps": 16, "minibatches": 2, "epochs": 2}
# Two values of every number, far enough apart to change what is learned.
PPO = {
    "entropy_weight": (0.0, 0.1), "learning_rate": (1e-3, 1e-2), "max_gradient_norm": (0.05, 5.0),
    "target_kl": (1.0, 1e-9), "discount": (0.9, 0.5), "trace": (0.0, 0.9), "clip": (0.2, 1e-4),
    "value_clip": (1e-4, 1.0), "value_weight": (0.1, 2.0),
}  # fmt: skip
GRPO = {
    "entropy_weight": (0.0, 0.1), "learning_rate": (1e-3, 1e-2), "max_gradient_norm": (0.05, 5.0),
    "target_kl": (1.0, 1e-9), "discount": (1.0, 0.5), "clip": (0.2, 1e-4), "clip_high": (1e-4, 0.3),
}  # fmt: skip


def experiment_with(agent):
    return Experiment(
        env="popgym/PositionOnlyCartPoleEasy",
        core=GRUConfig(),
        network=NetworkConfig(features=8, encoder_sizes=(), head_sizes=(8,)),
        agent=agent,
        total_steps=4 * 8 * 16,
        seeds=2,
        evaluation_episodes=2,
    )


def trained(experiments, updates=3):
    """The metrics of the first updates of each experiment, trained as a group."""
    group = Group(tuple(experiments))
    states = group.join([group.first_states() for _ in experiments])
    states, metrics = compile_chunk(group.update, group.seeds, states)(states, updates)
    assert [jax.tree.leaves(group.part(states, i))[0].shape[0] for i in range(len(experiments))] == [2] * len(
        experiments
    )
    return [group.metrics_of(metrics, i) for i in range(len(experiments))]


@pytest.mark.parametrize(
    ("config", "values"),
    [
        (PPOConfig(**SIZES), PPO),
        pytest.param(GRPOConfig(**SIZES, group_size=4, unfinished="count"), GRPO, marks=pytest.mark.slow),
    ],
    ids=["ppo", "grpo"],
)
def test_together_as_alone(config, values):
    """Every number reaches the update of its own experiment, and no other."""
    assert set(values) == set(config.numbers), "a number without a test"
    start = dataclasses.replace(config, **{name: first for name, (first, _) in values.items()})
    seconds = {name: second for name, (_, second) in values.items()}
    others = {name: {name: second} for name, second in seconds.items()}
    # More than one gradient step, and no bound so close that rounding decides what is clipped.
    others |= {"all": {**seconds, "target_kl": start.target_kl, "clip": start.clip}}
    agents = [start, *(dataclasses.replace(start, **fields) for fields in others.values())]
    reference, *together = trained([experiment_with(agent) for agent in agents])
    for name, found in zip(others, together, strict=True):
        same = [np.allclose(found[m], reference[m], rtol=1e-4, atol=1e-5, equal_nan=True) for m in found]
        assert not all(same), f"{name} changes nothing"
    (alone,) = trained([experiment_with(agents[-1])])
    for metric, expected in alone.items():
        np.testing.assert_allclose(together[-1][metric], expected, rtol=2e-3, atol=2e-4, err_msg=metric)


def test_experiments_of_several_shapes_are_no_group():
    one = experiment_with(PPOConfig(**SIZES))
    others: list[dict[str, Any]] = [{"value_clip": 0.1}, {"num_envs": 16}, {"warmup": 0.5}]
    for agent in others:
        other = dataclasses.replace(one, agent=dataclasses.replace(one.agent, **agent))
        assert shape_of(one) != shape_of(other)
        with pytest.raises(MemrlError, match="2 shapes of experiments"):
            Group((one, other))
    faster = dataclasses.replace(one, agent=dataclasses.replace(one.agent, learning_rate=1.0))
    assert shape_of(one) == shape_of(faster)


class Notes(Console):
    """A `Watcher` that keeps its messages."""

    def __init__(self):
        super().__init__(1, quiet=True)
        self.messages: list[str] = []

    def message(self, text):
        self.messages.append(text)


OPTIONS = RunOptions(checkpoint_seconds=0, chunk_seconds=0, track=(), quiet=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three runs trained together, the second of which diverges."""
    out = tmp_path_factory.mktemp("runs")
    one = experiment_with(PPOConfig(**SIZES))
    rates = {"slow": 1e-3, "diverged": 1e25, "fast": 1e-2}
    members = [
        Member(dataclasses.replace(one, agent=dataclasses.replace(one.agent, learning_rate=rate)), out / name)
        for name, rate in rates.items()
    ]
    with open_runs(members, OPTIONS) as opened:
        failures = train_together(opened, OPTIONS, Notes())
    return out, members, failures


def test_a_run_that_diverges_leaves_the_others_alone(runs):
    out, _, failures = runs
    assert [failure is None for failure in failures] == [True, False, True]
    assert "not finite" in str(failures[1])
    assert not (out / "diverged" / "evaluation.json").exists()
    assert 4 not in Checkpoints(out / "diverged" / "checkpoints").updates()
    for name in ("slow", "fast"):
        assert len(json.loads((out / name / "evaluation.json").read_text())["greedy"]["mean_return_per_seed"]) == 2
        assert Checkpoints(out / name / "checkpoints").updates() == [3, 4]
        assert json.loads((out / name / "facts.json").read_text())["env_steps_per_second"] > 0


def test_members_have_folders_as_alone(runs, tmp_path):
    out, members, _ = runs
    run(members[2].experiment, tmp_path / "alone", OPTIONS)
    together, alone = (read_metrics(folder / "metrics.csv") for folder in (out / "fast", tmp_path / "alone"))
    assert together.keys() == alone.keys()
    for name in alone:
        np.testing.assert_allclose(together[name], alone[name], rtol=2e-3, atol=2e-4, err_msg=name)
    names = ({p.name for p in folder.iterdir()} for folder in (out / "fast", tmp_path / "alone"))
    assert next(names) == next(names)


def test_together_again_from_the_last_update_that_all_have(runs, tmp_path):
    """One lacks its last checkpoint, as after a kill between two of them; the others go back to where it is."""
    out, members, _ = runs
    members = [Member(m.experiment, tmp_path / m.path.name, True) for m in (members[0], members[2])]
    for member in members:
        shutil.copytree(out / member.path.name, member.path)
    shutil.rmtree(members[1].path / "checkpoints" / "update_00000004")
    facts = json.loads((members[0].path / "facts.json").read_text())
    said = Notes()
    with open_runs(members, OPTIONS) as opened:
        assert train_together(opened, OPTIONS, said) == [None, None]
    assert "resumed after update 3" in said.messages
    for member in members:
        before, after = (read_metrics(folder / member.path.name / "metrics.csv") for folder in (out, tmp_path))
        for name in before:
            np.testing.assert_allclose(after[name], before[name], rtol=2e-3, atol=2e-4, err_msg=name)
    again = json.loads((members[0].path / "facts.json").read_text())
    assert again["train_seconds"] > facts["train_seconds"]
    assert again["compile_seconds"] > facts["compile_seconds"]
    assert again["parameters"] == facts["parameters"]
