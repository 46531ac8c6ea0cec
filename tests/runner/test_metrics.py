import numpy as np
import pytest

from memrl.errors import MemrlError
from memrl.runner.metrics import MetricsFile, read_metrics

CHUNK, UPDATES, SEEDS = 3, 12, 2


def chunk(first, n=CHUNK, seeds=SEEDS):
    random = np.random.default_rng(first)
    returns = random.normal(size=(n, seeds)).astype(np.float32)
    returns[0, 0] = np.nan
    return {
        "episode_return": returns,
        "loss/value": (10.0 ** random.uniform(-30, 30, (n, seeds))).astype(np.float32),
        "episodes": random.integers(0, 9, (n, seeds)).astype(np.int32),
    }


def write(path, first=0, last=UPDATES, resume=None):
    with MetricsFile(path, resume) as file:
        for update in range(first, last, CHUNK):
            file.append(update, 1000, chunk(update))


@pytest.fixture
def whole(tmp_path):
    """The bytes of a run that was never interrupted."""
    write(tmp_path / "whole.csv")
    return (tmp_path / "whole.csv").read_bytes()


def test_literal_content(tmp_path):
    with MetricsFile(tmp_path / "m.csv") as file:
        values = np.array([[0.1, np.nan], [1e-7, -np.inf]], np.float32)
        file.append(4, 100, {"loss": values, "n": np.array([[1, 2], [3, 4]]), "ok": values > 0})
    assert (tmp_path / "m.csv").read_text() == (
        "seed,update,env_steps,loss,n,ok\n0,4,500,0.1,1,1\n1,4,500,nan,2,0\n0,5,600,1e-07,3,1\n1,5,600,-inf,4,0\n"
    )


def test_float32_comes_back_exactly(tmp_path):
    bits = np.random.default_rng(0).integers(0, 2**32, 4000, dtype=np.uint32)
    values = np.append(bits.view(np.float32), np.array([0.0, -0.0, 1e-45, 3.4028235e38], np.float32)).reshape(-1, 2)
    with MetricsFile(tmp_path / "m.csv") as file:
        file.append(0, 1, {"x": values})
    with np.errstate(over="raise"):
        back = read_metrics(tmp_path / "m.csv")["x"].astype(np.float32)
    np.testing.assert_array_equal(back, values)
    np.testing.assert_array_equal(np.signbit(back), np.signbit(values) & ~np.isnan(values))


def test_read_gives_one_array_per_column(tmp_path, whole):
    metrics = read_metrics(tmp_path / "whole.csv")
    np.testing.assert_array_equal(metrics["seed"], np.arange(SEEDS))
    np.testing.assert_array_equal(metrics["update"], np.arange(UPDATES))
    np.testing.assert_array_equal(metrics["env_steps"], 1000 * np.arange(1, UPDATES + 1))
    assert metrics["env_steps"].dtype == np.int64
    expected = np.concatenate([chunk(u)["episode_return"] for u in range(0, UPDATES, CHUNK)])
    np.testing.assert_array_equal(metrics["episode_return"].astype(np.float32), expected)


def test_every_chunk_is_on_disk_at_once(tmp_path):
    file = MetricsFile(tmp_path / "m.csv")
    file.append(0, 10, chunk(0))
    assert len(read_metrics(tmp_path / "m.csv")["update"]) == CHUNK
    file.close()
    file.close()


@pytest.mark.parametrize("resume", [0, 3, 9, UPDATES])
def test_a_resumed_run_ends_with_the_same_bytes_wherever_it_was_killed(tmp_path, whole, resume):
    path = tmp_path / "m.csv"
    lines = whole.splitlines(keepends=True)
    shortest = len(b"".join(lines[: 1 + resume * SEEDS])) if resume else 0
    for cut in np.linspace(shortest, len(whole), 25).astype(int):
        path.write_bytes(whole[:cut])
        write(path, first=resume, resume=resume)
        assert path.read_bytes() == whole, f"killed after {cut} bytes"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.csv", "whole.csv"]


def test_resuming_at_zero_needs_no_file(tmp_path, whole):
    write(tmp_path / "m.csv", resume=0)
    assert (tmp_path / "m.csv").read_bytes() == whole


@pytest.mark.parametrize("cut", [0, 1, 20, 200])
def test_resuming_past_the_end_is_an_error_and_changes_nothing(tmp_path, whole, cut):
    path = tmp_path / "whole.csv"
    path.write_bytes(whole[: len(whole) - cut])
    resume = UPDATES if cut else UPDATES + 1
    with pytest.raises(MemrlError, match=rf"whole.csv lacks rows of update \d+, .* update {resume}$") as error:
        MetricsFile(path, resume)
    whole_updates = (whole[: len(whole) - cut].count(b"\n") - 1) // SEEDS
    assert f"update {whole_updates}," in str(error.value)
    assert path.read_bytes() == whole[: len(whole) - cut]
    assert [p.name for p in tmp_path.iterdir()] == ["whole.csv"]


def test_resuming_without_the_file_is_an_error(tmp_path):
    with pytest.raises(MemrlError, match=r"m.csv lacks rows of update 0"):
        MetricsFile(tmp_path / "m.csv", 3)


def test_column_order_is_that_of_the_file_after_resume(tmp_path, whole):
    path = tmp_path / "m.csv"
    write(path, last=9)
    with MetricsFile(path, 9) as file:
        file.append(9, 1000, dict(reversed(chunk(9).items())))
    assert path.read_bytes() == whole


def test_a_new_run_never_overwrites(tmp_path, whole):
    with pytest.raises(MemrlError, match=r"whole.csv exists"):
        MetricsFile(tmp_path / "whole.csv")
    assert (tmp_path / "whole.csv").read_bytes() == whole


def test_other_metrics_than_before_are_an_error(tmp_path, whole):
    with (
        MetricsFile(tmp_path / "whole.csv", UPDATES) as file,
        pytest.raises(MemrlError, match="other metrics than this run writes: episodes, kl"),
    ):
        file.append(UPDATES, 1, {k.replace("episodes", "kl"): v for k, v in chunk(0).items()})


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"a": np.zeros((2, 3)), "b": np.zeros((2, 2))}, "share one shape"),
        ({"a": np.zeros(2)}, r"\[updates, seeds\]"),
        ({"a,b": np.zeros((1, 1))}, "'a,b' cannot be the name"),
        ({"seed": np.zeros((1, 1))}, "'seed' cannot be the name"),
    ],
)
def test_malformed_metrics_are_refused(tmp_path, metrics, message):
    with MetricsFile(tmp_path / "m.csv") as file, pytest.raises(ValueError, match=message):
        file.append(0, 1, metrics)


def test_a_killed_runs_unfinished_update_is_left_out(tmp_path, whole):
    path = tmp_path / "m.csv"
    for cut in range(1, 60):
        path.write_bytes(whole[:-cut])
        n = whole[:-cut].count(b"\n") - 1
        assert read_metrics(path)["episodes"].shape == (n // SEEDS, SEEDS)
    path.write_bytes(whole[: whole.index(b"\n") + 1])
    assert read_metrics(path)["loss/value"].shape[0] == 0


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: "", "is no metrics file"),
        (lambda text: "hello\n" + text, "is no metrics file"),
        (lambda text: text.replace(",5,", ",five,", 1), "is damaged: could not convert string 'five'"),
        (lambda text: text.replace("\n1,5,", "\n", 1), "is damaged"),
        (lambda text: text.replace("\n1,5,", "\n0,5,", 1), "is damaged: its rows are not every seed"),
        (lambda text: text.replace("\n1,5,", "\nnan,5,", 1), "is damaged: its rows are not every seed"),
        (lambda text: text.replace(",5,6000,", ",6,6000,"), "is damaged: its rows are not every seed"),
        (lambda text: text.replace("\n1,5,6000,", "\n1,6,6000,"), "is damaged: its rows are not every seed"),
        (lambda text: text.replace("\n", ",extra\n", 1), "is damaged: 6 columns where the header names 7"),
    ],
)
def test_damage_is_named(tmp_path, whole, damage, message):
    path = tmp_path / "whole.csv"
    path.write_text(damage(whole.decode()))
    with pytest.raises(MemrlError, match=message) as error:
        read_metrics(path)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MemrlError, match=r"cannot read .*none.csv: No such file"):
        read_metrics(tmp_path / "none.csv")


def test_resuming_a_damaged_file_is_an_error(tmp_path, whole):
    (tmp_path / "whole.csv").write_bytes(whole.replace(b"\n0,2,", b"\n0;2;"))
    with pytest.raises(MemrlError, match=r"whole.csv is damaged: line 6 holds no update"):
        MetricsFile(tmp_path / "whole.csv", 9)
