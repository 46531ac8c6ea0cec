"""`memrl compare`: cells as `memrl train` would leave them, that fail, stop and go on one by one."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from quick import quick_environment

from memrl.cli import main
from memrl.runner.metrics import read_metrics

CONFIG = """
from memrl import Experiment, NetworkConfig, PPOConfig
experiment = Experiment(
    env="memory/TMaze",
    env_options={"length": 6},
    network=NetworkConfig(features=8, encoder_sizes=(), head_sizes=()),
    agent=PPOConfig(num_envs=4, num_steps=8, minibatches=2, epochs=1),
    total_steps=UPDATES * 4 * 8,
    seeds=2,
    evaluation_episodes=2,
)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compare")
    (path / "small.py").write_text(CONFIG.replace("UPDATES", "5"))
    (path / "long.py").write_text(CONFIG.replace("UPDATES", "200"))
    return path


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**quick_environment(), "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"), "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, "-m", "memrl", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    output, error = process.communicate(timeout=600)
    return process.returncode, output, error


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline, f"{what} never came"
        time.sleep(0.02)


SWEPT = ["compare", "small.py", "--cores", "gru", "mlp", "--sweep", "agent.learning-rate=1e-3,1e25,1e-2", "--track"]
TMAZE = Path("swept/memory-TMaze")


@pytest.fixture(scope="module")
def swept(folder: Path) -> tuple[int, str, str]:
    """A comparison in which a value makes every run diverge."""
    return finish(start(folder, *SWEPT, "--out", "swept"))


def test_cells_that_fail_leave_the_others_alone(folder: Path, swept: tuple[int, str, str]):
    code, output, error = swept
    assert code == 1
    lines = error.splitlines()
    assert len(lines) == 2, error
    for core, line in zip(("gru", "mlp"), sorted(lines), strict=True):
        assert line.startswith(f"memrl: memory-TMaze/{core}/agent.learning_rate=1e25: update ")
        assert "loss or gradient is not finite" in line
    assert "6 cells" in output
    assert output.count("failed: update") == 2
    for core in ("gru", "mlp"):
        for rate, finished in (("1e-3", True), ("1e25", False), ("1e-2", True)):
            cell = folder / TMAZE / core / f"agent.learning_rate={rate}"
            assert (cell / "evaluation.json").exists() == finished
            assert json.loads((cell / "config.json").read_text())["agent"]["learning_rate"] == float(rate)
            assert (cell / "config.py").read_text() == (folder / "small.py").read_text()
    table = output[output.index("┃ environment") :]
    assert table.count("failed") == 2
    assert table.count("memory/TMaze") == 6


def test_comparison_json_describes_the_grid(folder: Path, swept: tuple[int, str, str]):
    grid = json.loads((folder / "swept" / "comparison.json").read_text())
    assert grid["cores"] == ["gru", "mlp"]
    assert grid["envs"] == ["memory/TMaze"]
    assert grid["sweep"] == {"agent.learning_rate": ["1e-3", "1e25", "1e-2"]}
    assert grid["seeds"] == 2
    assert len(grid["cells"]) == 6
    for cell in grid["cells"]:
        assert (folder / "swept" / cell["folder"] / "config.json").exists()


def test_a_cell_is_what_train_leaves(folder: Path, swept: tuple[int, str, str]):
    rate = ["--agent.learning-rate", "1e-2"]
    code, _, error = finish(start(folder, "train", "small.py", "--core", "mlp", *rate, "--out", "alone", "--track"))
    assert code == 0, error
    alone, cell = folder / "alone", folder / TMAZE / "mlp" / "agent.learning_rate=1e-2"
    assert {p.name for p in alone.iterdir()} == {p.name for p in cell.iterdir()}
    assert (alone / "config.json").read_text() == (cell / "config.json").read_text()
    assert json.loads((alone / "facts.json").read_text()).keys() == json.loads((cell / "facts.json").read_text()).keys()
    one, other = (read_metrics(run / "metrics.csv") for run in (alone, cell))
    for name in one:
        np.testing.assert_allclose(other[name], one[name], rtol=2e-3, atol=2e-4, err_msg=name)


def test_what_is_finished_is_not_trained_again(folder: Path, swept: tuple[int, str, str]):
    files = [p for p in (folder / "swept").rglob("*") if p.name in ("metrics.csv", "evaluation.json")]
    finished = [p for p in files if "1e25" not in str(p)]
    before = [p.stat().st_mtime_ns for p in finished]
    code, output, error = finish(
        start(folder, *SWEPT[:5], "--sweep", "agent.learning-rate=1e-3,1e-2", "--out", "swept")
    )
    assert code == 0, error
    assert "4 cells, 4 finished before" in output
    assert [p.stat().st_mtime_ns for p in finished] == before
    assert output.count("memory/TMaze") == 4  # the table is of all of them


def test_a_cell_of_another_configuration_is_named(folder: Path, swept: tuple[int, str, str]):
    code, output, error = finish(start(folder, *SWEPT, "--out", "swept", "--total-steps", "64"))
    assert code == 2
    assert error.count("\n") == 1
    assert "run folder swept/memory-TMaze/gru/agent.learning_rate=1e-3 is of another run" in error
    assert "total_steps is 160 there and 64 here" in error
    assert output == ""


def is_pending(process: int, number: signal.Signals) -> bool:
    """Whether a signal waits for a stopped process."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd", "ShdPnd"))]
    return any(mask >> (number - 1) & 1 for mask in masks)


LONG = ["compare", "long.py", "--cores", "gru", "mlp", "--checkpoint-seconds", "0", "--jobs", "2", "--track"]


def metrics_of(out: Path) -> list[bytes]:
    return [(out / "memory-TMaze" / core / name).read_bytes()
            for core in ("gru", "mlp") for name in ("metrics.csv", "evaluation.json")]  # fmt: skip


def test_killed_stopped_and_resumed(folder: Path):
    """First the parent is killed, then a child, then the parent is asked to stop; in the end nothing is lost."""
    out = folder / "long"
    cells = {core: out / "memory-TMaze" / core for core in ("gru", "mlp")}

    def newest(core: str) -> int:
        return max((int(p.name[-8:]) for p in cells[core].glob("checkpoints/update_*")), default=0)

    def freeze_both(begun: dict[str, int]) -> dict[str, int]:
        """Waits until both have saved something new and stops each there: one may be done while the other compiles."""
        frozen: dict[str, int] = {}

        def are_frozen() -> bool:
            for core in cells:
                if core not in frozen and newest(core) > begun[core]:
                    process = int((cells[core] / ".lock").read_text())
                    os.kill(process, signal.SIGSTOP)
                    frozen[core] = process
            return len(frozen) == len(cells)

        wait_for(are_frozen, "a checkpoint of both")
        return frozen

    parent = start(folder, *LONG, "--out", "long")
    processes = freeze_both({"gru": 0, "mlp": 0})
    parent.kill()
    parent.wait()
    for process in processes.values():  # nobody listens any more
        os.kill(process, signal.SIGCONT)
    finish(parent)
    for process in processes.values():
        wait_for(lambda process=process: not Path(f"/proc/{process}").exists(), "the end of the children")
    begun = {core: newest(core) for core in cells}
    assert 0 < min(begun.values()) <= max(begun.values()) < 200, "it was over before it was killed"

    parent = start(folder, *LONG, "--out", "long")
    processes = freeze_both(begun)
    os.kill(processes["gru"], signal.SIGKILL)
    assert parent.stdout is not None
    said = ""
    while "failed" not in said:
        line = parent.stdout.readline()
        assert line, said
        said += line
    assert "memory-TMaze/gru  failed: killed by SIGKILL, out of memory?" in said
    parent.send_signal(signal.SIGTERM)
    wait_for(lambda: is_pending(processes["mlp"], signal.SIGTERM), "the signal passed on")
    os.kill(processes["mlp"], signal.SIGCONT)
    code, output, error = finish(parent)
    assert code == 128 + signal.SIGTERM, error
    assert "2 to go on" in said
    assert "stopped  memory-TMaze/mlp" in output
    assert "0 of 2 cells are finished; the same command goes on" in output
    assert error == ""
    assert not Path(f"/proc/{processes['mlp']}").exists()

    code, output, error = finish(start(folder, *LONG, "--out", "long"))
    assert code == 0, error
    assert finish(start(folder, *LONG, "--out", "undisturbed"))[0] == 0
    assert metrics_of(out) == metrics_of(folder / "undisturbed")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    Path("small.py").write_text(CONFIG.replace("UPDATES", "1"))
    return "small.py"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--cores", "gru", "gruu"], ["memory/TMaze gruu: unknown core 'gruu'", "did you mean 'gru'"]),
        (["--cores=gruu"], ["unknown core 'gruu'"]),
        (["--cores", "gru", "gru"], ["core gru is given twice"]),
        (["--envs", "memory/TMaze", "memory/TMase"], ["unknown environment 'memory/TMase'", "'memory/TMaze'"]),
        (
            ["--cores", "gru", "s5,gruu", "--envs", "memory/TMaze", "memory/Copi"],
            ["memory/TMaze s5,gruu: unknown core 'gruu'", "; memory/Copi gru: unknown environment 'memory/Copi'"],
        ),
        (["--core", "gru"], ["core is given, expected --cores"]),
        (["--env", "memory/TMaze"], ["env is given, expected --envs"]),
        (["--cores", "gru", "lstm", "--core.hidden-size", "3"], ["--core.hidden-size is given with gru, lstm"]),
        (["--envs", "memory/TMaze", "memory/Parity", "--env.length", "3"], ["--env.length is given with memory/TMaze"]),
        (["--envs", "memory/TMaze", "--env.lenght", "3"], ["did you mean '--env.length'"]),
        (["--sweep", "agent.lr=1,2"], ["unknown field of ppo 'lr'"]),
        (["--sweep", "agent.clip"], ["sweep is 'agent.clip', expected FIELD=VALUE"]),
        (["--sweep", "agent.clip=1", "agent.clip=2"], ["sweep of agent.clip is given twice"]),
        (["--sweep", "agent.discount=0.9,1.5"], ["memory/TMaze gru: ppo: discount is 1.5"]),
        (["--sweep", "agent.num-envs=4,5"], ["minibatches is 2", "5 sequences"]),
        (["--cores", "gru", "s5", "--sweep", "core.blocks=1,2"], ["memory/TMaze gru: unknown field of core gru"]),
        (["--cores", "s5", "--sweep", "core.blocks=1,3"], ["memory/TMaze s5: ", "state_size"]),
        (["--match", "parameters=many"], ["match is 'parameters=many'"]),
        (["--match", "parameters=9k", "--sweep", "network.features=8,16"], ["match", "network.features"]),
        (["--jobs", "0"], ["jobs is 0, expected at least 1"]),
        (["--together", "0"], ["together is 0, expected at least 1"]),
        (["--seeds", "0"], ["seeds is 0"]),
        (["--track", "tensorbord"], ["unknown tracker 'tensorbord'"]),
    ],
)
def test_mistakes_are_found_before_anything_is_trained(
    config: str, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: list[str]
):
    with pytest.raises(SystemExit) as end:
        main(["compare", config, *arguments])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("memrl: ")
    assert error.count("\n") == 1, error
    for text in expected:
        assert text in error
    assert not Path("runs").exists()


def test_a_damaged_cell_is_named(config: str, capsys: pytest.CaptureFixture[str]):
    cell = Path("out/memory-TMaze/gru")
    cell.mkdir(parents=True)
    (cell / "config.json").write_text('{"env": ')
    with pytest.raises(SystemExit) as end:
        main(["compare", config, "--out", "out"])
    assert end.value.code == 2
    assert f"run folder {cell}: config.json is damaged" in capsys.readouterr().err


def test_help(config: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        main(["compare", config, "--help"])
    assert not end.value.code
    output = capsys.readouterr().out
    assert all(option in output for option in ("--cores", "--envs", "--sweep", "--match", "--jobs", "--env.length"))
