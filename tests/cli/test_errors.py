"""Every mistake ends in one line that names it, exit code 2, no traceback."""

import os
from pathlib import Path

import pytest

from memrl.cli import main
from memrl.cores import list_cores

CONFIG = """
from memrl import Experiment, NetworkConfig, PPOConfig
experiment = Experiment(
    env="memory/TMaze",
    network=NetworkConfig(features=8, encoder_sizes=(), head_sizes=()),
    agent=PPOConfig(num_envs=4, num_steps=8, minibatches=2, epochs=1),
    total_steps=64,
    evaluation_episodes=2,
)
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")  # leave the tests' own cache alone
    Path("small.py").write_text(CONFIG)
    return "small.py"


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("memrl: ")
    assert error.count("\n") == 1, error
    assert "Traceback" not in error
    return error


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--core", "gruu"], ["unknown core 'gruu'", "did you mean 'gru'", "lstm"]),
        (["--core=gruu"], ["unknown core 'gruu'"]),
        (["--core", "s5,gruu"], ["unknown core 'gruu'", "did you mean 'gru'"]),
        (["--core", "s5,"], ["unknown core ''"]),
        (["--core", "s5,gru", "--core.state-size", "3"], ["unknown option", "--core.0.state-size"]),
        (["--core", "gmu"], ["core gmu: no layer comes before it"]),
        (["--core", "s5,gru", "--network.stack.layers", "1"], ["stack: layers is 1, expected at least 2"]),
        (["--core", "gru", "--core.hiden-size", "3"], ["--core.hiden-size", "--core.hidden-size"]),
        (["--core.state-size", "3"], ["unknown option", "--core.state-size"]),  # an option of another core
        (["--core", "s5", "--core.blocks", "3"], ["state_size", "8", "6"]),
        (["--env", "memory/TMase"], ["unknown environment 'memory/TMase'", "did you mean 'memory/TMaze'"]),
        (["--env.lenght", "3"], ["--env.lenght", "did you mean '--env.length'"]),
        (["--env.length", "0"], ["length", "0"]),
        (["--env.length", "long"], ["--env.length", "long"]),
        (["--agent.lr", "3"], ["--agent.lr", "--agent.learning-rate"]),
        (["--agent.num-envs", "5"], ["minibatches", "2", "5 sequences"]),
        (["--agent.chunk-length", "16"], ["chunk_length", "16", "num_steps = 8"]),
        (["--agent.chunk-length", "3"], ["chunk_length", "3", "num_steps = 8"]),
        (["--agent.discount", "1.5"], ["discount", "1.5", "between 0 and 1"]),
        (["--agent.schedule", "cubic"], ["schedule", "cubic", "linear"]),
        (["--network.features", "wide"], ["--network.features", "wide"]),
        (["--network.stack.layers", "0"], ["layers", "0"]),
        (["--total-steps", "0"], ["total_steps", "0", "at least 1"]),
        (["--seeds", "0"], ["seeds", "0", "at least 1"]),
        (["--seed", "-1"], ["seed", "-1"]),
        (["--track", "tensorbord"], ["unknown tracker 'tensorbord'", "did you mean 'tensorboard'"]),
        (["stray"], ["unexpected argument 'stray'"]),
    ],
)
def test_bad_option(config: str, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: list[str]):
    error = error_of(capsys, "train", config, *arguments)
    for text in expected:
        assert text in error
    assert not Path("runs").exists()  # nothing is left behind by a run that never began


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trian"], ["unknown command 'trian'", "did you mean 'train'"]),
        (["train"], ["config", "None"]),
        (["train", "missing.py"], ["missing.py", "not a file"]),
        (["train", "runs/x"], ["runs/x", ".py"]),
        (["list", "coers"], ["coers", "cores"]),
        (["eval", "nowhere"], ["nowhere", "config.json"]),
    ],
)
def test_bad_command(config: str, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: list[str]):
    error = error_of(capsys, *arguments)
    for text in expected:
        assert text in error


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("x = 1", ["experiment is None"]),
        ("experiment = 3", ["experiment is 3"]),
        ("\n1 / 0", ["line 2", "ZeroDivisionError"]),
        ("def f(:", ["line 1", "SyntaxError"]),
        ("import no_such_package", ["no_such_package"]),
        (CONFIG.replace("num_steps", "nun_steps"), ["nun_steps"]),
        (CONFIG.replace("total_steps=64", "total_steps='many'"), ["total_steps", "'many'", "int"]),
        (CONFIG.replace("features=8", "features=8.5"), ["features", "8.5", "int"]),
        (CONFIG.replace("memory/TMaze", "memory/TMase"), ["memory/TMase", "memory/TMaze"]),
    ],
)
def test_bad_script(config: str, capsys: pytest.CaptureFixture[str], script: str, expected: list[str]):
    Path(config).write_text(script)
    error = error_of(capsys, "train", config)
    for text in ["small.py" if "TMase" not in script else "", *expected]:
        assert text in error


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_unwritable_run_folder(config: str, capsys: pytest.CaptureFixture[str]):
    Path("closed").mkdir(mode=0o500)
    assert "closed" in error_of(capsys, "train", config, "--out", "closed/run")


def test_run_folder_in_the_place_of_a_file(config: str, capsys: pytest.CaptureFixture[str]):
    Path("occupied").write_text("")
    assert "occupied" in error_of(capsys, "train", config, "--out", "occupied/run")


def test_existing_run_folder(config: str, capsys: pytest.CaptureFixture[str]):
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("dear diary")
    error = error_of(capsys, "train", config, "--out", "mine")
    assert "mine" in error
    assert "--resume" in error
    assert [p.name for p in Path("mine").glob("*.txt")] == ["notes.txt"]


def test_resume_of_nothing(config: str, capsys: pytest.CaptureFixture[str]):
    assert "nothing to resume" in error_of(capsys, "train", config, "--out", "new", "--resume")


@pytest.mark.parametrize("arguments", [["train", "--help"], ["eval", "--help"], ["list", "-h"]])
def test_help_of_a_command(config: str, capsys: pytest.CaptureFixture[str], arguments: list[str]):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert not end.value.code
    assert "usage" in capsys.readouterr().out


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]):
    main(["--help"])
    output = capsys.readouterr().out
    assert all(command in output for command in ("train", "eval", "list"))


def test_help_shows_the_options_of_the_chosen_core(config: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["train", config, "--core", "s5", "--help"])
    output = capsys.readouterr().out
    assert "--core.state-size" in output
    assert "--env.length" in output
    assert "--agent.learning-rate" in output


def test_several_cores_have_options_each(config: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["train", config, "--core", "s5,s5,window_attention", "--help"])
    output = capsys.readouterr().out
    assert "--core.1.state-size" in output
    assert "--core.2.window" in output


def test_list(capsys: pytest.CaptureFixture[str]):
    main(["list", "cores"])
    assert capsys.readouterr().out.split() == list(list_cores())


def test_evaluating_elsewhere(config: str, capsys: pytest.CaptureFixture[str]):
    """With other options of the environment, as long as the agent sees and does the same."""
    main(["train", config, "--out", "run", "--track", "--quiet"])
    capsys.readouterr()
    main(["eval", "run", "--episodes", "2", "--env.length", "7"])
    output = capsys.readouterr().out
    assert "memory/TMaze, length 7, after update 2 of 2" in output
    assert "length 8 " in output  # steps of an episode
    assert "did you mean '--env.length'" in error_of(capsys, "eval", "run", "--env.lenght", "7")
    recall = ["--env", "memory/AssociativeRecall", "--out", "recall", "--track", "--quiet"]
    main(["train", config, *recall])
    error = error_of(capsys, "eval", "recall", "--env.vocab-size", "20")
    assert "observation space of memory/AssociativeRecall with {'vocab_size': 20} is" in error
    assert "as learned" in error
