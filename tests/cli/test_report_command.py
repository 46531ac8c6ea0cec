"""`memrl report` leaves a report and says what it left out, or one line that says why not."""

from pathlib import Path

import pytest
from runner.synthetic_runs import make_run

from memrl.cli import main


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(Path("runs/a"))
    make_run(Path("runs/b"), core="s5", updates=8)
    (make_run(Path("runs/c")) / "evaluation.json").unlink()
    (make_run(Path("half/a")) / "metrics.csv").unlink()
    Path("empty").mkdir()
    Path("mine.html").write_text("mine")
    Path("other").mkdir()
    Path("file").write_text("")


def test_a_report_says_what_it_left_out(capsys: pytest.CaptureFixture[str]):
    main(["report", "runs", "--repetitions", "20", "--out", "new.html"])
    output = capsys.readouterr().out.splitlines()
    assert output[0] == "skipped runs/c: unfinished: no evaluation.json there"
    assert any("runs that differ in steps or options are not compared with each other" in line for line in output)
    assert output[-1] == "new.html: 2 runs, 1 skipped"
    assert Path("new/results.csv").is_file()
    main(["report", "runs/a", "--repetitions", "20", "--out", "new.html", "--overwrite", "--score", "mmer"])
    assert capsys.readouterr().out.splitlines()[-1] == "new.html: 1 runs, 0 skipped"


CONFIG = """
from memrl import Experiment, NetworkConfig, PPOConfig, WindowAttentionConfig
experiment = Experiment(
    env="memory/TMaze",
    core=WindowAttentionConfig(window=4, heads=2),
    network=NetworkConfig(features=8, encoder_sizes=(), head_sizes=()),
    agent=PPOConfig(num_envs=4, num_steps=8, minibatches=2, epochs=1),
    total_steps=64,
    evaluation_episodes=2,
)
"""


def test_what_the_memories_hold(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")  # leave the tests' own cache alone
    Path("small.py").write_text(CONFIG)
    main(["train", "small.py", "--out", "runs/d", "--quiet"])
    main(["report", "runs/a", "runs/d", "--repetitions", "20", "--out", "new.html", "--memory", "--episode", "3"])
    capsys.readouterr()
    page = Path("new.html").read_text()
    assert "What the memories hold" in page
    assert "window_attention on memory/TMaze: an episode" in page
    assert "Of layer 0, window_attention" in page
    assert "gru on popgym/RepeatPreviousEasy: " in page  # without a checkpoint: named, not looked into
    assert Path("new/memory.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["runs is empty"]),
        (["nowhere"], ["nowhere is not a folder"]),
        (["empty"], ["empty holds no run folder"]),
        (["half"], ["no finished run", "1 skipped", "half/a", "metrics.csv"]),
        (["runs", "--out", "page.htm"], ["page.htm", ".html"]),
        (["runs", "--out", "nowhere/page.html"], ["nowhere is not a folder"]),
        (["runs", "--out", "mine.html"], ["mine.html exists", "--overwrite"]),
        (["runs", "--out", "other.html"], ["other exists", "--overwrite"]),
        (["runs", "--out", "file.html", "--overwrite"], ["file is a file"]),
        (["runs", "--score", "best"], ["--score", "best"]),
        (["runs", "--repetitions", "0"], ["repetitions is 0", "at least 1"]),
        (["runs", "--memory", "--episode", "-1"], ["episode is -1", "between 0 and"]),
        (["runs", "--confidence", "95"], ["confidence is 95", "between 0 and 1"]),
        (["runs", "--confidense", "0.9"], ["--confidense", "did you mean '--confidence'"]),
    ],
)
def test_mistakes(capsys: pytest.CaptureFixture[str], arguments: list[str], expected: list[str]):
    before = sorted(Path().rglob("*"))
    with pytest.raises(SystemExit) as end:
        main(["report", *arguments])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("memrl: ")
    assert error.count("\n") == 1, error
    for text in expected:
        assert text in error
    assert sorted(Path().rglob("*")) == before
    assert Path("mine.html").read_text() == "mine"
