"""What `load_run` and `collect_runs` make of whole, unfinished and damaged run folders."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from runner.synthetic_runs import FACTS, edit, make_run

import memrl
from memrl.errors import MemrlError
from memrl.runner.results import collect_runs


def test_a_run_as_python_values(tmp_path: Path):
    run = memrl.load_run(make_run(tmp_path / "run", seed=7, env_options={"k": 3}))
    assert run.finished
    assert run.experiment.env_options == {"k": 3}
    assert run.config["core"]["name"] == "gru"
    assert run.facts == FACTS
    frame = run.metrics
    assert list(frame.columns) == ["seed", "update", "env_steps", "episode_return"]
    assert frame.shape == (12, 4)
    assert frame.dtypes.astype(str).tolist() == ["int64", "int64", "int64", "float64"]
    last = frame[frame["update"] == 3].set_index("seed")
    assert last.env_steps.tolist() == [256] * 3
    np.testing.assert_allclose(last.loc[[7, 8, 9], "episode_return"], [0.25, 0.5, 0.75])
    np.testing.assert_allclose(run.scores("greedy"), [0.25, 0.5, 0.75])
    np.testing.assert_allclose(run.scores("sampled"), [0.15, 0.4, 0.65])
    np.testing.assert_allclose(run.scores("mmer"), [0.25, 0.5, 0.75])


def test_an_unfinished_run_can_be_read(tmp_path: Path):
    path = make_run(tmp_path / "run")
    (path / "evaluation.json").unlink()
    (path / "facts.json").unlink()
    run = memrl.load_run(str(path))
    assert not run.finished
    assert run.evaluation is None
    assert run.facts is None
    with pytest.raises(MemrlError, match=r"no evaluation\.json"):
        run.scores("greedy")


def truncate(path: Path) -> None:
    """As a kill or a full disk may leave it."""
    text = path.read_text()
    path.write_text(text[: 3 * len(text) // 4])


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda run: (run / "config.json").unlink(), "no config.json there"),
    "half a config": (lambda run: truncate(run / "config.json"), "config.json is damaged"),
    "not a run's config": (lambda run: (run / "config.json").write_text("[]"), "config.json is damaged"),
    "an older version": (lambda run: edit(run / "config.json", lr=3), "not of this version of memrl: unknown field"),
    "without a core": (lambda run: edit(run / "config.json", core=None), "not of this version of memrl"),
    "no metrics": (lambda run: (run / "metrics.csv").unlink(), "metrics.csv: No such file"),
    "half the metrics": (lambda run: truncate(run / "metrics.csv"), "metrics.csv ends after update 2 of 4"),
    "damaged metrics": (lambda run: (run / "metrics.csv").write_bytes(b"\x80\x00\xff"), "not text"),
    "other seeds": (lambda run: edit(run / "config.json", seeds=2), "3 seeds, expected 2"),
    "not evaluated": (lambda run: (run / "evaluation.json").unlink(), "no evaluation.json there"),
    "half an evaluation": (lambda run: truncate(run / "evaluation.json"), "evaluation.json is damaged"),
    "older evaluation": (lambda run: edit(run / "evaluation.json", greedy={}), "no mean_return_per_seed of greedy"),
    "half the facts": (lambda run: truncate(run / "facts.json"), "facts.json is damaged"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_not_whole_is_named_and_skipped(tmp_path: Path, name: str):
    damage, reason = DAMAGE[name]
    make_run(tmp_path / "all" / "env" / "good")
    damage(make_run(tmp_path / "all" / "bad"))
    runs, skipped = collect_runs([tmp_path / "all"])
    assert [run.path.name for run in runs] == ["good"]
    assert [s.path.name for s in skipped] == ["bad"]
    assert reason in skipped[0].reason
    assert "\n" not in skipped[0].reason


def test_runs_are_found_once_in_order(tmp_path: Path):
    for name in ("b/gru", "b/s5/lr", "a"):
        make_run(tmp_path / name)
    (tmp_path / "a" / "checkpoints").mkdir()
    (tmp_path / "empty").mkdir()
    found = collect_runs([tmp_path / "b" / "s5", tmp_path])
    assert [str(run.path.relative_to(tmp_path)) for run in found.runs] == ["b/s5/lr", "a", "b/gru"]


def test_nothing_to_collect(tmp_path: Path):
    with pytest.raises(MemrlError, match="nowhere is not a folder"):
        collect_runs([tmp_path / "nowhere"])
    with pytest.raises(MemrlError, match="holds no run folder"):
        collect_runs([tmp_path])
    with pytest.raises(MemrlError, match="not a folder"):
        memrl.load_run(tmp_path / "nowhere")
