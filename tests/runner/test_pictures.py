import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest

import memrl
from memrl.errors import MemrlError
from memrl.runner.pictures import Curve, curve_from_metrics, joined, learning_curve, smoothed, steps_text

# Start of a script that imports single modules of memrl, without all that its __init__ imports.
BARE = f"""if True:
    import sys, types
    sys.modules["memrl"] = types.ModuleType("memrl")
    sys.modules["memrl"].__path__ = {list(memrl.__path__)!r}
"""

NAN = float("nan")


def curve(seeds=3, n=50, offset=0.0):
    returns = offset + np.linspace(0, 1, n)[:, None] + 0.1 * np.arange(seeds)
    returns[::3] = NAN
    return Curve(np.arange(1, n + 1) * 1000, returns)


def pixels(path, color):
    """How many pixels have a colour, given as #rrggbb."""
    wanted = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
    image = np.round(matplotlib.image.imread(path)[..., :3] * 255).astype(int)
    return int((np.abs(image - wanted).max(-1) <= 1).sum())


def test_smoothing_is_the_mean_of_known_values_in_the_window():
    returns = np.array([[1.0], [NAN], [5.0], [NAN], [NAN], [NAN]])
    np.testing.assert_array_equal(smoothed(returns, 3)[:, 0], [1, 1, 3, 5, 5, NAN])
    np.testing.assert_array_equal(smoothed(returns, 1), returns)


def test_smoothing_does_not_leak_from_outside_the_window():
    returns = np.array([[1e12], [0.1], [0.2], [0.3]])
    assert smoothed(returns, 2)[3, 0] == pytest.approx(0.25, abs=1e-15)


def test_gaps_are_joined_over_env_steps_and_ends_stay_open():
    steps = np.array([0, 1, 3, 4, 5])
    returns = np.array([[NAN, NAN], [1, NAN], [NAN, NAN], [4, NAN], [NAN, NAN]])
    result = joined(steps, returns)
    np.testing.assert_array_equal(result[:, 0], [NAN, 1, 3, 4, NAN])
    assert np.isnan(result[:, 1]).all()
    assert np.isnan(returns[2, 0]), "the input must not change"


@pytest.mark.parametrize(
    ("steps", "text"), [(0, "0"), (500, "500"), (2e5, "200k"), (1.5e6, "1.5M"), (1e7, "10M"), (2e9, "2B")]
)
def test_ticks_read_well(steps, text):
    assert steps_text(steps) == text


def test_the_same_curves_give_the_same_bytes(tmp_path):
    for name in "ab":
        learning_curve(tmp_path / name, {"x": curve(), "y": curve(offset=1)}, "t", references={"best": 2.0})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    learning_curve(tmp_path / "c", {"x": curve(), "y": curve(offset=1.5)}, "t", references={"best": 2.0})
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "c"]


def test_curves_band_and_references_are_in_the_picture(tmp_path):
    flat = Curve(np.arange(1, 100), np.zeros((99, 1)))
    spread = Curve(np.arange(1, 100), np.stack([np.full(99, -1.0), np.ones(99)], 1))
    first, second, band = "#0072b2", "#d55e00", "#d1e6f1"
    learning_curve(tmp_path / "one", {"x": flat}, references={"best": 3.0})
    learning_curve(tmp_path / "plain", {"x": flat})
    learning_curve(tmp_path / "two", {"x": spread, "y": flat})
    assert pixels(tmp_path / "one", first) > 1000
    assert pixels(tmp_path / "one", second) == pixels(tmp_path / "one", band) == 0
    assert pixels(tmp_path / "one", "#6b6b6b") > pixels(tmp_path / "plain", "#6b6b6b") + 300
    assert pixels(tmp_path / "two", second) > 1000
    assert pixels(tmp_path / "two", band) > 50_000


@pytest.mark.parametrize("returns", [np.full((4, 2), NAN), np.zeros((0, 2)), np.array([[NAN], [1.0]])])
def test_hardly_any_data_is_drawn_without_a_word(tmp_path, returns):
    sparse = Curve(np.arange(len(returns)), returns)
    learning_curve(tmp_path / "p.png", {"a": sparse, "b": sparse}, window=3, band="quartiles")
    assert matplotlib.image.imread(tmp_path / "p.png").shape[2] == 4


def test_the_users_matplotlib_settings_do_not_matter(tmp_path):
    learning_curve(tmp_path / "plain.png", {"x": curve()})
    with matplotlib.rc_context({"axes.facecolor": "black", "lines.linewidth": 9, "font.size": 30}):
        learning_curve(tmp_path / "odd.png", {"x": curve()})
        assert matplotlib.rcParams["font.size"] == 30
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "odd.png").read_bytes()


def test_neither_pyplot_nor_matplotlib_is_imported_before_it_is_needed(tmp_path):
    code = f"""if True:
        import pathlib, numpy as np
        from memrl.runner.pictures import Curve, learning_curve
        assert "matplotlib" not in sys.modules
        path = pathlib.Path({str(tmp_path / "p.png")!r})
        learning_curve(path, {{"a": Curve(np.arange(3), np.zeros((3, 2)))}})
        assert "matplotlib.pyplot" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", BARE + code], check=True)


def test_curve_from_metrics():
    metrics = {"env_steps": np.arange(2), "episode_return": np.zeros((2, 3)), "loss": np.ones((2, 3))}
    assert curve_from_metrics(metrics).returns is metrics["episode_return"]
    assert curve_from_metrics(metrics, "loss").returns is metrics["loss"]
    with pytest.raises(MemrlError, match=r"no metric 'gain' to draw: known: env_steps, episode_return, loss"):
        curve_from_metrics(metrics, "gain")


def test_a_window_of_nothing_is_an_error(tmp_path):
    with pytest.raises(MemrlError, match="window=0"):
        learning_curve(tmp_path / "p.png", {}, window=0)
