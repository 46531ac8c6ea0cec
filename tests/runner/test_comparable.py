"""Which runs count as the same, and which as comparable."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from runner.synthetic_runs import AGENT, make_run

from memrl.errors import MemrlError
from memrl.runner.comparable import Comparison, compare_runs, score_table
from memrl.runner.results import collect_runs

FAST = dataclasses.replace(AGENT, learning_rate=0.01)


def comparison_of(folder: Path) -> Comparison:
    runs, skipped = collect_runs([folder])
    return compare_runs(runs, skipped)


def test_tasks_and_labels(tmp_path: Path):
    for core in ("gru", "s5"):
        for env in ("popgym/RepeatFirstEasy", "popgym/RepeatPreviousEasy"):
            make_run(tmp_path / env / core, env=env, core=core)
    found = comparison_of(tmp_path)
    assert [task.name for task in found.tasks] == ["popgym/RepeatFirstEasy", "popgym/RepeatPreviousEasy"]
    assert found.tasks[0].steps == 256
    assert found.labels == ("gru", "s5")
    assert len(found.entries) == 4
    assert found.notices == ()
    table = score_table(found, "greedy")
    assert table.notices == ()
    # Random earns -0.5, the best is 1.
    np.testing.assert_allclose(table.scores["s5"], np.array([[0.5, 0.5], [2 / 3, 2 / 3], [2.5 / 3, 2.5 / 3]]))


def test_other_steps_or_options_are_not_averaged(tmp_path: Path):
    make_run(tmp_path / "a", core="gru")
    make_run(tmp_path / "b", core="s5", updates=8)
    make_run(tmp_path / "c", core="s5", env_options={"k": 2})
    make_run(tmp_path / "d", core="s5", trials=2)
    found = comparison_of(tmp_path)
    env = "popgym/RepeatPreviousEasy"
    assert [task.name for task in found.tasks] == [
        f"{env}, 256 steps",
        f"{env}, 512 steps",
        f"{env}, k 2",
        f"{env}, trials 2",
    ]
    assert len(found.notices) == 1
    assert "not compared with each other" in found.notices[0]
    table = score_table(found, "greedy")
    assert table.scores == {}
    assert any("no run of s5" in notice for notice in table.notices)
    assert sum("not known" in notice for notice in table.notices) == 2


def test_labels_say_what_differs(tmp_path: Path):
    make_run(tmp_path / "a", core="gru")
    make_run(tmp_path / "b", core="gru", agent=FAST)
    make_run(tmp_path / "c", core="s5", agent=FAST)  # alone of its core: nothing to tell it from
    assert comparison_of(tmp_path).labels == ("gru learning_rate=0.0003", "gru learning_rate=0.01", "s5")


def test_seeds_of_several_runs_are_one_entry(tmp_path: Path):
    make_run(tmp_path / "a", seed=0)
    make_run(tmp_path / "b", seed=3, returns=(0.0, 1.0))
    make_run(tmp_path / "c", seed=4, returns=(0.9,))
    found = comparison_of(tmp_path)
    (entry,) = found.entries.values()
    assert entry.seeds.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(entry.returns("greedy"), [0.25, 0.5, 0.75, 0.0, 1.0])
    assert entry.curve.returns.shape == (4, 5)
    assert [s.path.name for s in found.skipped] == ["c"]
    assert "repeats seeds of" in found.skipped[0].reason


def test_tasks_that_a_label_lacks_do_not_count(tmp_path: Path):
    for core, env in (("gru", "RepeatFirstEasy"), ("gru", "RepeatPreviousEasy"), ("s5", "RepeatFirstEasy")):
        make_run(tmp_path / env / core, env=f"popgym/{env}", core=core)
    table = score_table(comparison_of(tmp_path), "sampled")
    assert [task.env for task in table.tasks] == ["popgym/RepeatFirstEasy"]
    assert table.notices == ("popgym/RepeatPreviousEasy: no run of s5, so it does not count over all tasks",)


def test_fewest_seeds_count(tmp_path: Path):
    make_run(tmp_path / "a", env="popgym/RepeatFirstEasy", returns=(0.1, 0.2, 0.3))
    make_run(tmp_path / "b", env="popgym/RepeatPreviousEasy", returns=(0.7, np.nan, 0.9))
    table = score_table(comparison_of(tmp_path), "greedy")
    np.testing.assert_allclose(table.scores["gru"] * 1.5 - 0.5, [[0.1, 0.7], [0.2, 0.9]])
    assert "gru: 2 seeds" in table.notices[0]


def test_bounds(tmp_path: Path):
    make_run(tmp_path / "known")
    make_run(tmp_path / "better", env="popgym/HigherLowerEasy", best_return=0.7)
    make_run(tmp_path / "own", env="memory/TMaze", env_options={"length": 50}, best_return=1.0, chance_return=0.5)
    make_run(tmp_path / "best only", env="memory/TMaze", env_options={"length": 9}, best_return=1.0)
    found = comparison_of(tmp_path)
    bounds = {task.name: (b.zero, b.one) for task, b in found.bounds.items()}
    assert bounds == {
        "popgym/RepeatPreviousEasy": (-0.5, 1.0),
        "popgym/HigherLowerEasy": (0.0, 0.7),
        "memory/TMaze, length 50": (0.5, 1.0),
    }


def test_speeds_of_several_machines_do_not_compare(tmp_path: Path):
    for core, device in (("gru", "cpu"), ("s5", "NVIDIA H100"), ("mlp", "cpu")):
        path = make_run(tmp_path / core, core=core)
        (path / "versions.json").write_text(json.dumps({"device_kind": device, "jax": "0.10.2"}))
    (notice,) = comparison_of(tmp_path).notices
    assert notice == "runs are of several kinds of device: cpu (2), NVIDIA H100 (1); their speeds do not compare"


def test_an_unknown_score(tmp_path: Path):
    make_run(tmp_path / "a")
    with pytest.raises(MemrlError, match="score is 'best', expected one of greedy, sampled, mmer"):
        score_table(comparison_of(tmp_path), "best")
