"""Several processes train one run as one process would, and notice when one of them is lost."""

import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from quick import quick_environment

from memrl.errors import MemrlError
from memrl.runner.checkpoints import Checkpoints
from memrl.runner.hosts import HostOptions, joined
from memrl.runner.metrics import read_metrics

CONFIG = """
from memrl import Experiment, MinGRUConfig, NetworkConfig, PPOConfig
experiment = Experiment(
    env="memory/TMaze",
    core=MinGRUConfig(),
    network=NetworkConfig(features=8, encoder_sizes=(), head_sizes=(8,)),
    agent=PPOConfig(num_envs=16, num_steps=8, minibatches=2, epochs=2, normalise_observations=True),
    total_steps=60 * 16 * 8,
    evaluation_episodes=4,
)
"""
COMMAND = ["train", "tiny.py", "--chunk-seconds", "0", "--checkpoint-seconds", "0"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"process": 1}, "process is given, expected --distributed with it"),
        ({"distributed": True, "process": 1}, "process is given, expected coordinator, processes and process together"),
        ({"distributed": True, "join_seconds": 0.0}, "join_seconds is 0.0, expected a positive number"),
        ({"coordinator": "here", "processes": 2, "process": 0}, "coordinator is 'here', expected HOST:PORT"),
        ({"coordinator": "here:0", "processes": 2, "process": 0}, "coordinator is 'here:0', expected HOST:PORT"),
        ({"coordinator": "h:1", "processes": 0, "process": 0}, "processes is 0, expected at least 1"),
        ({"coordinator": "h:1", "processes": 2, "process": 2}, "process is 2, expected 0 to 1"),
    ],
)
def test_mistakes_name_the_option(options, message):
    if "coordinator" in options:
        options["distributed"] = True
    with pytest.raises(MemrlError) as error:
        HostOptions(**options)
    assert str(error.value) == message


def test_without_distributed_nothing_happens():
    with joined(HostOptions(), "a task"):
        assert threading.active_count() < 100


# Before all have come, JAX knows nothing of it: these run in threads.


def free_port() -> int:
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


def outcomes(*processes: tuple[int, int, str], seconds: float = 20.0, before=None) -> list[str]:
    """What `joined` raises in each of (process, processes, task), of which at least one does not fit."""
    port, errors = free_port(), {}

    def join(i: int, process: int, count: int, task: str) -> None:
        options = HostOptions(True, f"127.0.0.1:{port}", count, process, seconds)
        try:
            with joined(options, task):
                errors[i] = "joined"
        except MemrlError as error:
            errors[i] = str(error)

    threads = [threading.Thread(target=join, args=(i, *process)) for i, process in enumerate(processes)]
    for thread in threads:
        thread.start()
    if before is not None:
        before(port)
    for thread in threads:
        thread.join()
    return [errors[i] for i in range(len(processes))]


def test_who_does_not_come_is_named_to_all():
    message = "distributed: process 2 of 4 did not join within 2 s"
    assert outcomes((0, 4, "t"), (1, 4, "t"), (3, 4, "t"), seconds=2) == [message] * 3
    message = "distributed: processes 1 and 2 of 3 did not join within 0.5 s"
    assert outcomes((0, 3, "t"), seconds=0.5) == [message]
    (message,) = outcomes((1, 2, "t"), seconds=0.5)
    assert message.startswith("distributed: process 0 did not answer at 127.0.0.1:")
    assert message.endswith(" within 0.5 s")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ((1, 3, "a task"), "is one of 3 processes, expected one of 2"),
        ((1, 2, "another"), "was started with another experiment or mesh"),
    ],
)
def test_who_comes_for_something_else_is_named_to_all(other, message):
    name = f"distributed: process 1 ({socket.gethostname()}) "
    assert outcomes((0, 2, "a task"), other) == [name + message] * 2


def test_two_of_one_number():
    twice = f"distributed: process 1 is there twice, on {socket.gethostname()}"
    assert outcomes((0, 3, "t"), (1, 3, "t"), (1, 3, "t")) == [twice] * 3


def test_a_stranger_is_sent_away():
    def call(port: int) -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                with socket.create_connection(("127.0.0.1", port)) as stranger:
                    stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
                    assert stranger.recv(100) == b""
                    return
            except ConnectionRefusedError:
                time.sleep(0.05)
        pytest.fail("nobody listened")

    message = "distributed: process 1 of 2 did not join within 3 s"
    assert outcomes((0, 2, "t"), seconds=3, before=call) == [message]


def test_a_port_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with (
            pytest.raises(MemrlError, match=f"cannot listen at {address}: Address already in use"),
            joined(HostOptions(True, address, 2, 0, 5.0), "t"),
        ):
            pytest.fail("it joined")


# Whole runs.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hosts")
    (path / "tiny.py").write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def alone(folder: Path) -> Path:
    """The run by one process, from start to end."""
    ((code, _, error),) = finish(start(folder, 1, *COMMAND, "--out", "alone"))
    assert code == 0, error
    return folder / "alone"


def start(folder: Path, processes: int, *arguments: str) -> list[subprocess.Popen[str]]:
    environment = {**quick_environment(), "JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}
    where = ["--distributed", "--coordinator", f"127.0.0.1:{free_port()}", "--processes", str(processes), "--process"]
    return [
        subprocess.Popen(
            [sys.executable, "-m", "memrl", *arguments, *([*where, str(i)] if processes > 1 else [])],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(processes)
    ]


def finish(processes: list[subprocess.Popen[str]], timeout: float = 300) -> list[tuple[int, str, str]]:
    try:
        return [(process.returncode, *said) for process in processes for said in [process.communicate(timeout=timeout)]]
    finally:
        for process in processes:
            process.kill()


def wait_for_checkpoint(run: Path, after: int = 0) -> None:
    deadline = time.monotonic() + 240
    while max(Checkpoints(run / "checkpoints").updates(), default=0) <= after:
        assert time.monotonic() < deadline, "no checkpoint came"
        time.sleep(0.02)


def check_same(run: Path, alone: Path) -> None:
    one, other = read_metrics(run / "metrics.csv"), read_metrics(alone / "metrics.csv")
    assert set(one) == set(other)
    for name, values in one.items():
        np.testing.assert_allclose(values, other[name], rtol=2e-2, atol=1e-4, err_msg=name)
    assert (run / "evaluation.json").exists()


def test_a_run_survives_its_processes(folder: Path, alone: Path):
    """One is told to stop, one is killed, and at last one process alone ends what two began."""
    run, command = folder / "two", [*COMMAND, "--out", "two"]
    processes = start(folder, 2, *command)
    wait_for_checkpoint(run)
    processes[1].send_signal(signal.SIGTERM)
    (code, output, error), (other, _, _) = finish(processes)
    assert (code, other) == (143, 143), error
    assert "for 2 cpu devices of 2 processes, data=2, seed=1" in output
    assert "stopped after update" in output

    stopped = max(Checkpoints(run / "checkpoints").updates())
    processes = start(folder, 2, *command, "--resume")
    wait_for_checkpoint(run, after=stopped)
    processes[1].kill()
    killed = time.monotonic()
    (code, output, error), _ = finish(processes)
    assert code == 2
    assert time.monotonic() - killed < 60
    assert f"resumed after update {stopped}" in output
    assert f"memrl: process 1 ({socket.gethostname()}) was lost; the run can be resumed" in error

    ((code, output, error),) = finish(start(folder, 1, *command, "--resume"))
    assert code == 0, error
    check_same(run, alone)


def test_what_stops_the_first_stops_all(folder: Path, alone: Path):
    (code, _, error), (other, _, other_error) = finish(start(folder, 2, *COMMAND, "--out", str(alone)))
    assert (code, other) == (2, 2)
    message = f"run folder {alone} exists: pass --resume to continue it or choose another with --out"
    assert error.splitlines()[-1] == f"memrl: {message}"
    assert other_error.splitlines()[-1].endswith(f" stopped: {message}")


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 2])
def test_four_processes(folder: Path, alone: Path, lost: int):
    run, command = folder / f"four_{lost}", [*COMMAND, "--out", f"four_{lost}"]
    processes = start(folder, 4, *command)
    wait_for_checkpoint(run)
    processes[lost].kill()
    killed = time.monotonic()
    codes = [code for code, _, _ in finish(processes)]
    assert time.monotonic() - killed < 60
    assert all(codes)
    results = finish(start(folder, 4, *command, "--resume"))
    assert [code for code, _, _ in results] == [0] * 4, results
    check_same(run, alone)


@pytest.mark.slow
def test_one_that_falls_silent(folder: Path):
    processes = start(folder, 2, *COMMAND, "--out", "silent")
    wait_for_checkpoint(folder / "silent")
    processes[1].send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    ((code, _, error),) = finish(processes[:1])
    processes[1].kill()
    finish(processes[1:])
    assert code == 2
    assert "was lost; the run can be resumed" in error
    assert time.monotonic() - stopped < 60
