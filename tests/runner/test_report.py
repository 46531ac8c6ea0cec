"""A report's tables, pictures and page, as files; tests/runner/test_report_page.py looks at the page in a browser."""

import csv
import json
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from runner.synthetic_runs import AGENT, make_run

from memrl.runner.comparable import Comparison, compare_runs
from memrl.runner.pictures import Curve
from memrl.runner.report import Report, ReportOptions, write_report
from memrl.runner.report.analysis import Sampling, analyse, binned
from memrl.runner.report.figures import draw_pictures
from memrl.runner.report.inside import Inside, memory_section
from memrl.runner.report.tables import matrix, results_csv, to_latex, to_markdown
from memrl.runner.results import collect_runs

QUICK = ReportOptions(repetitions=50)
ENVS = ("popgym/RepeatFirstEasy", "popgym/RepeatPreviousEasy")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cores on two environments; s5 is better on both."""
    folder = tmp_path_factory.mktemp("runs")
    for env in ENVS:
        make_run(folder / env / "gru", env=env, core="gru", returns=(0.0, 0.1, 0.2))
        make_run(folder / env / "s5", env=env, core="s5", returns=(0.8, 0.9, 1.0))
    return folder


@pytest.fixture(scope="module")
def comparison(runs: Path) -> Comparison:
    return compare_runs(*collect_runs([runs]))


@pytest.fixture(scope="module")
def report(runs: Path) -> Report:
    (runs / ENVS[0] / "s5" / "episode.gif").write_bytes(b"GIF89a")
    return write_report([runs], runs / "report.html", QUICK)


def test_what_is_written(report: Report):
    names = sorted(path.name for path in report.folder.iterdir())
    pictures = ("aggregates", "costs", "improvement", "learning_curves", "profiles", "sample_efficiency")
    expected = [f"{name}.{suffix}" for name in pictures for suffix in ("png", "svg")]
    assert names == sorted([*expected, "results.csv", "results.md", "results.tex"])
    assert (report.folder / "aggregates.png").read_bytes().startswith(b"\x89PNG")
    assert "</svg>" in (report.folder / "aggregates.svg").read_text()


def test_the_page_holds_everything(report: Report):
    page = report.page.read_text()
    assert len(page) < 6e6
    for text in (*ENVS, "interquartile mean", "Probability of improvement", "12,345", "4,321", "6.25 s"):
        assert text in page
    assert 'href="popgym/RepeatFirstEasy/s5/episode.gif"' in page
    assert "src=" not in page.split("<script>")[0]
    assert "default-src 'none'" in page


def test_the_same_runs_give_the_same_bytes(report: Report, runs: Path, tmp_path: Path):
    again = write_report([runs], tmp_path / "report.html", QUICK)
    for path in report.folder.iterdir():
        assert path.read_bytes() == (again.folder / path.name).read_bytes(), path.name


def test_findings(comparison: Comparison):
    found = analyse(comparison, "greedy", Sampling(200, 0.95))
    assert found.order == ("s5", "gru")  # the best first
    # Scores are (return + 0.5) / 1.5.
    assert found.aggregates["mean"]["s5"].value == pytest.approx(1.4 / 1.5)
    assert found.aggregates["optimality gap"]["gru"].value == pytest.approx(1 - 0.6 / 1.5)
    assert float(found.improvement["s5", "gru"].value) == 1.0
    assert float(found.improvement["gru", "s5"].high) == 0.0
    row = next(row for row in found.rows if row.entry.label == "gru")
    assert row.returns.value == pytest.approx(0.1)
    assert 0.0 <= row.returns.low < 0.1 < row.returns.high < 0.2001
    assert row.mmer == pytest.approx(0.1)
    assert row.facts["parameters"] == 12_345
    assert found.efficiency["s5"].x.tolist() == [64, 128, 192, 256]
    assert found.efficiency["s5"].y.value[-1] == pytest.approx(1.4 / 1.5)
    assert found.efficiency_axis == "environment steps"


def test_tasks_of_other_lengths_share_an_axis(tmp_path: Path):
    make_run(tmp_path / "a", env=ENVS[0])
    make_run(tmp_path / "b", env=ENVS[1], updates=8)
    found = analyse(compare_runs(*collect_runs([tmp_path])), "greedy", Sampling(20, 0.95))
    assert found.efficiency_axis == "share of training"
    assert found.efficiency["gru"].x.tolist() == [0.25, 0.5, 0.75, 1.0]


def test_downsampling_keeps_means_and_gaps():
    nan = np.nan
    returns = np.array([[nan, 1.0], [nan, 3.0], [2.0, nan], [4.0, 5.0], [6.0, 7.0]])
    steps, small = binned(Curve(np.arange(5) * 10, returns), 2)
    assert steps.tolist() == [10, 40]
    np.testing.assert_allclose(small, [[nan, 2], [4, 6]])
    np.testing.assert_allclose(binned(Curve(np.arange(5), returns), 9).returns, returns)


def test_tables(comparison: Comparison):
    found = analyse(comparison, "greedy", Sampling(200, 0.95))
    lines = list(csv.DictReader(results_csv(found).splitlines()))
    assert len(lines) == 4
    assert lines[0]["core"] == "gru"
    assert float(lines[0]["return"]) == pytest.approx(0.1)
    assert float(lines[0]["score"]) == pytest.approx(0.4)
    assert lines[0]["state_bytes"] == "2048"
    table = matrix(found)
    assert [line[0] for line in table] == ["environment", *ENVS, *found.aggregates]
    assert table[1][1].startswith("*0.90 ± 0.")
    assert table[1][2].startswith("0.10 ± 0.")
    assert table[-1][1].startswith("*0.07")  # of the optimality gap, the least is best
    markdown = to_markdown(table).splitlines()
    assert markdown[0] == "| environment | s5 | gru |"
    assert markdown[1] == "| --- | ---: | ---: |"
    assert markdown[2].startswith(f"| {ENVS[0]} | **0.90 ± 0.")


def test_latex():
    text = to_latex([["environment", "s5", "gru x_y=1"], ["a&b", "*0.90 ± 0.01*", "-0.10 ± 0.02"]], tasks=1)
    assert r"\begin{tabular}{lrr}" in text
    assert r"environment & s5 & gru x\_y=1 \\" in text
    assert r"a\&b & $\mathbf{0.90 \pm 0.01}$ & $-0.10 \pm 0.02$ \\" in text


def test_unknown_facts_and_returns_are_blank(tmp_path: Path):
    path = make_run(tmp_path / "old", env="gymnax/Pong-misc", returns=(1.0,), updates=1)
    (path / "facts.json").unlink()
    report = write_report([tmp_path], tmp_path / "report.html", QUICK)
    line = next(csv.DictReader((report.folder / "results.csv").read_text().splitlines()))
    assert line["score"] == line["parameters"] == ""
    assert line["return"] == "1.0"
    assert report.notices == ("gymnax/Pong-misc: random or best return not known, so its returns are not normalised",)
    assert not (report.folder / "aggregates.png").exists()
    assert not (report.folder / "costs.png").exists()


def test_text_is_escaped(tmp_path: Path):
    make_run(tmp_path / "<script>alert(1)<" / "script>", env="gymnax/</script><b>")
    page = write_report([tmp_path], tmp_path / "report.html", ReportOptions("<i>", repetitions=50)).page.read_text()
    assert "<i>" not in page.split("<script>")[0]
    assert "</script><b>" not in page
    assert "<script>alert" not in page


def make_hundred(folder: Path, updates: int = 489) -> None:
    """10 cores on 10 environments, 5 seeds of a million steps each."""
    cores = ("gru", "lstm", "s5", "mamba", "gla", "deltanet", "lru", "mingru", "gtrxl", "mlp")
    families = ("Autoencode", "CountRecall", "HigherLower", "MultiarmedBandit", "RepeatFirst", "RepeatPrevious")
    envs = [f"popgym/{family}{level}" for level in ("Easy", "Hard") for family in families][:10]
    rng = np.random.default_rng(0)
    for core in cores:
        for env in envs:
            returns = rng.uniform(-0.5, 0.9, 5)
            make_run(folder / env / core, env=env, core=core, returns=returns, updates=updates, metrics=20)


@pytest.mark.slow
def test_a_hundred_runs_are_quick_and_small(tmp_path: Path):
    make_hundred(tmp_path / "runs")
    began = time.process_time()
    report = write_report([tmp_path / "runs"], tmp_path / "report.html")
    assert time.process_time() - began < 20
    assert report.page.stat().st_size < 10e6
    assert AGENT.steps_per_update == 64


def insight(steps: int = 6) -> SimpleNamespace:
    """Stands in for what memrl.runner.insight finds in a trained network."""
    trace = SimpleNamespace(
        layers=("gru", "window_attention"),
        norms=np.linspace(0, 1, 2 * steps, dtype=np.float32).reshape(steps, 2),
        observations=np.eye(steps, 4, dtype=np.float32),
        labels=("suit 0", "suit 1", "suit 2", "suit 3"),
        actions=np.zeros(steps, int),
        rewards=np.ones(steps),
        ended=True,
    )
    delays = np.arange(3)
    probe = SimpleNamespace(
        target="observation",
        measure="accuracy",
        delays=delays,
        score=np.array([1.0, 0.9, 0.5]),
        error=np.array([0.0, 0.01, np.nan]),
        chance=np.full(3, 0.25),
        sight=np.array([1.0, 0.3, 0.25]),
        episodes=8,
    )
    weights = np.tril(np.ones((2, steps, steps), np.float32)) / np.arange(1, steps + 1)[None, :, None]
    attention = (SimpleNamespace(layer=1, weights=weights),)
    return SimpleNamespace(trace=trace, attention=attention, observation=probe, cue=None)


def test_what_the_memories_hold(comparison: Comparison, tmp_path: Path):
    found = analyse(comparison, "greedy", Sampling(20, 0.95))
    keys = list(comparison.entries)
    inside = Inside(dict.fromkeys(keys[1:], insight()), ("gru on somewhere: no checkpoint",))  # type: ignore[arg-type]
    section = memory_section(found, inside, episode=3)
    charts = [part for part in section.parts if not isinstance(part, str)]
    assert sum(title == "Attention" for _, _, title in charts) == 3
    assert sum(title == "Probe of observation" for _, _, title in charts) == 2
    names = [trace["name"] for trace in charts[0][0]["data"]]
    assert names[:2] == ["from the present observation alone", "guessing"]
    text = "".join(part for part in section.parts if isinstance(part, str))
    assert "no checkpoint" in text
    draw_pictures(found, tmp_path, inside)
    assert (tmp_path / "memory.svg").is_file()
    json.dumps([chart for chart, _, _ in charts], allow_nan=False)
