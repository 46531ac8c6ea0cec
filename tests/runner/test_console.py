import io
import os
import pty
import subprocess
import sys

import numpy as np
import pytest

import memrl
from memrl.runner.console import Console, count, duration, return_text

# Start of a script that imports single modules of memrl, without all that its __init__ imports.
BARE = f"""if True:
    import sys, types
    sys.modules["memrl"] = types.ModuleType("memrl")
    sys.modules["memrl"].__path__ = {list(memrl.__path__)!r}
"""

NAN = float("nan")


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self):
        return True


def returns(*values):
    return {"episode_return": np.array([values])}


def run(stream, chunks=5, seconds=10.0, **options):
    clock = Clock()
    with Console(1000 * chunks, stream=stream, clock=clock, **options) as console:
        console.compiling()
        clock.now += 100
        console.training()
        for i in range(1, chunks + 1):
            clock.now += seconds
            console.update(1000 * i, returns(i, i + 1))
        console.message("saved")
        console.evaluating()
        console.summary([("return", "1.0"), ("folder", "runs/x")])
    return clock


def test_a_log_gets_one_line_per_chunk_with_the_numbers():
    stream = io.StringIO()
    run(stream)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "compiling     0%  0/5,000 steps"
    assert lines[1] == "training     20%  1,000/5,000 steps  return 1.5 ± 0.5  100 steps/s  0:40 left"
    assert lines[5] == "training    100%  5,000/5,000 steps  return 5.5 ± 0.5  100 steps/s  0:00 left"
    assert lines[6:] == [
        "saved",
        "evaluating  100%  5,000/5,000 steps  return 5.5 ± 0.5",
        "return  1.0",
        "folder  runs/x",
    ]
    assert "\x1b" not in stream.getvalue()


def test_a_log_stays_short_when_chunks_are_fast():
    stream = io.StringIO()
    clock = run(stream, chunks=1000, seconds=0.1)
    lines = [line for line in stream.getvalue().splitlines() if line.startswith("training")]
    assert 10 <= len(lines) <= (clock.now - 100) / 5 + 2
    assert lines[-1].startswith("training    100%"), "the end is always told"


def test_quiet_says_nothing():
    for stream in (io.StringIO(), Terminal()):
        run(stream, quiet=True)
        assert stream.getvalue() == ""


def test_a_terminal_gets_a_bar(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    stream = Terminal()
    run(stream)
    text = stream.getvalue()
    assert "\x1b[" in text
    for part in ("100%", "5k/5k steps", "return 5.5 ± 0.5", "evaluating", "saved", "runs/x"):
        assert part in text, part


def test_forced_colour_makes_no_bar_in_a_file(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    stream = io.StringIO()
    run(stream)
    assert "\x1b[2K" not in stream.getvalue()
    assert stream.getvalue().startswith("compiling     0%")


def test_speed_is_that_of_the_last_half_minute_of_training():
    clock = Clock()
    console = Console(10**6, quiet=True, clock=clock, stream=io.StringIO())
    console.training()
    assert np.isnan(console.steps_per_second)
    done = 0
    for rate in (100, 300):
        for _ in range(10):
            clock.now += 6
            done += 6 * rate
            console.update(done, {})
    assert console.steps_per_second == pytest.approx(300)
    console.evaluating()
    clock.now += 1000
    console.training()
    clock.now += 1
    console.update(done + 50, {})
    assert console.steps_per_second == pytest.approx(50)


def test_a_resumed_run_counts_only_its_own_steps():
    clock = Clock()
    console = Console(10_000, env_steps=9000, quiet=True, clock=clock, stream=io.StringIO())
    console.training()
    clock.now += 10
    console.update(9500, {})
    assert console.steps_per_second == pytest.approx(50)


def test_the_last_known_return_stays_in_sight():
    stream, clock = io.StringIO(), Clock()
    console = Console(100, stream=stream, clock=clock)
    for value, env_steps in ((1.0, 10), (NAN, 20)):
        clock.now += 10
        console.update(env_steps, returns(value))
    assert stream.getvalue().splitlines()[-1].split("  ")[-3] == "return 1"


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([[1.0, 3.0]], "return 2 ± 1"),
        ([[1.0], [2.0]], "return 1.5"),
        ([[NAN, 3.0], [NAN, 5.0]], "return 4"),
        ([[NAN, 1.0], [3.0, NAN]], "return 2 ± 1"),
        ([[NAN, NAN]], ""),
        (np.zeros((0, 0)), ""),
    ],
)
def test_return_text(rows, text):
    assert return_text(np.array(rows)) == text


def test_numbers_read_well():
    assert [count(x) for x in (0, 950, 1000, 12_345, 999_999, 4.5e6, 2e9)] == [
        "0", "950", "1k", "12.3k", "1M", "4.5M", "2B",
    ]  # fmt: skip
    assert [duration(x) for x in (0, 42.4, 187, 3723, 90_000)] == [
        "0:00", "0:42", "3:07", "1:02:03", "25:00:00",
    ]  # fmt: skip


def test_a_narrow_encoding_does_not_end_the_run():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    run(stream)
    stream.seek(0)
    assert "return 1.5 ? 0.5" in stream.read()


def test_square_brackets_in_messages_are_text(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    for stream in (io.StringIO(), Terminal()):
        with Console(10, stream=stream) as console:
            console.message("pip install memrl[wandb]")
            console.summary([("[a]", "[b]")])
        for text in ("memrl[wandb]", "[a]", "[b]"):
            assert text in stream.getvalue()


def test_on_a_real_terminal_the_cursor_comes_back_even_after_an_error():
    code = """if True:
        from memrl.runner.console import Console
        with Console(10) as console:
            console.training()
            raise KeyboardInterrupt
    """
    master, slave = pty.openpty()
    env = {**os.environ, "TERM": "xterm"}
    with subprocess.Popen([sys.executable, "-c", BARE + code], stdout=slave, stderr=subprocess.PIPE, env=env) as child:
        child.communicate()
    os.close(slave)
    output = os.read(master, 100_000).decode()
    os.close(master)
    assert "training" in output
    assert output.rindex("\x1b[?25h") > output.rindex("\x1b[?25l")
