import io

import pytest

from memrl.runner.overview import Overview, Standing


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self):
        return True


def overview_of(work, **options):
    clock = Clock()
    return Overview(work, **{"stream": io.StringIO(), **options}, clock=clock), clock


def test_time_left_follows_from_the_work_done():
    overview, clock = overview_of({"small": 100, "large": 300})
    assert overview.seconds_left is None
    clock.now = 10
    overview.update("small", Standing("training", 0.01, None))
    overview.update("small", Standing("training", 0.51, None))
    assert overview.seconds_left == (49 + 300) * 10 / 50
    clock.now = 20
    overview.end("small")
    assert overview.seconds_left == 300 * 20 / 99
    overview.end("large")
    assert overview.seconds_left == 0


def test_what_was_done_before_is_no_speed():
    overview, clock = overview_of({"resumed": 100})
    clock.now = 10
    overview.update("resumed", Standing("training", 0.8, None))
    assert overview.seconds_left is None
    overview.update("resumed", Standing("training", 0.9, None))
    assert overview.seconds_left == pytest.approx(10)


def test_a_job_that_failed_is_neither_done_nor_left():
    overview, clock = overview_of({"failed": 1000, "good": 100, "other": 100})
    clock.now = 10
    overview.end("good")
    overview.update("failed", Standing("training", 0.5, None))
    overview.end("failed", counts=False)
    assert overview.seconds_left == 10


def test_a_log_says_now_and_then_how_far_it_is():
    stream = io.StringIO()
    overview, clock = overview_of({"a": 1, "b": 1}, stream=stream)
    with overview:
        overview.message("2 cells")
        for i in range(1, 101):
            clock.now = i
            overview.update("a", Standing("training", i / 100, 0.25))
        overview.update("b", Standing("compiling", 0, None))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "2 cells"
    assert lines[1:] == [
        " 15%  a training 30%, return 0.25  2:56 left",
        " 30%  a training 60%, return 0.25  2:22 left",
        " 45%  a training 90%, return 0.25  1:51 left",
    ]


def test_a_terminal_gets_bars_and_lines_above_them():
    stream = Terminal()
    with Overview({"gru": 1, "s5": 1}, stream=stream) as overview:
        overview.update("gru", Standing("training", 0.5, 0.25))
        overview._progress.refresh()  # as it does by itself several times a second
        overview.message("1/2 s5 [bold]return[/bold] 1")
        overview.end("gru")
    text = stream.getvalue()
    assert "gru" in text
    assert "all" in text
    assert "training, return 0.25" in text
    assert "1/2 s5 [bold]return[/bold] 1" in text


def test_quiet_is_quiet():
    for stream in (io.StringIO(), Terminal()):
        with Overview({"a": 1}, quiet=True, stream=stream) as overview:
            overview.update("a", Standing("training", 0.5, None))
            overview.message("hello")
            overview.end("a")
        assert stream.getvalue() == ""
