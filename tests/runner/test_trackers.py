import math
import subprocess
import sys
import types
import warnings

import numpy as np
import pytest

import memrl
from memrl.errors import MemrlError
from memrl.runner.trackers import TRACKERS, TensorBoard, scalars

# Start of a script that imports single modules of memrl, without all that its __init__ imports.
BARE = f"""if True:
    import sys, types
    sys.modules["memrl"] = types.ModuleType("memrl")
    sys.modules["memrl"].__path__ = {list(memrl.__path__)!r}
"""


def events(folder):
    """Every event in the folder: records are length, checksum, message, checksum."""
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

    found = []
    for file in sorted(folder.iterdir(), key=lambda f: f.stat().st_mtime_ns):
        content = file.read_bytes()
        while content:
            size = int.from_bytes(content[:8], "little")
            found.append(Event.FromString(content[12 : 12 + size]))
            content = content[12 + size + 4 :]
    return found


def values(folder):
    return {(value.tag, event.step): value.simple_value for event in events(folder) for value in event.summary.value}


def test_scalars_are_means_over_known_seeds_and_each_seeds_return():
    metrics = {"episode_return": np.array([1.0, np.nan, 3.0]), "loss": np.array([np.nan] * 3)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = scalars(metrics)
    assert list(result) == ["episode_return", "loss", *(f"seed_{i}/episode_return" for i in range(3))]
    assert result["episode_return"] == 2.0
    assert math.isnan(result["loss"])
    assert result["seed_2/episode_return"] == 3.0


def test_one_seed_has_no_curves_of_its_own():
    assert scalars({"episode_return": np.array([1.0]), "n": np.array([3])}) == {
        "episode_return": 1.0,
        "n": 3.0,
    }


def test_tensorboard_has_every_number_at_once_and_no_nan(tmp_path):
    tracker = TRACKERS["tensorboard"](tmp_path, None, {})
    tracker.log(1000, {"episode_return": 0.5, "seed_0/episode_return": 0.25, "loss": math.nan})
    found = values(tmp_path)
    assert found == {("episode_return", 1000): 0.5, ("seed_0/episode_return", 1000): 0.25}
    tracker.log(3_000_000_000, {"loss": 2.0})
    tracker.close()
    assert values(tmp_path)[("loss", 3_000_000_000)] == 2.0


def test_tensorboard_purges_what_is_computed_again(tmp_path):
    tracker = TensorBoard(tmp_path, purge_step=500)
    tracker.log(500, {"loss": 1.0})
    tracker.close()
    starts = [event.step for event in events(tmp_path) if event.session_log.status == 1]
    assert starts == [500]


def test_a_quick_restart_keeps_the_events_before(tmp_path):
    for step in (1, 2, 3):
        tracker = TensorBoard(tmp_path)
        tracker.log(step, {"loss": 1.0})
        tracker.close()
    assert [step for _, step in values(tmp_path)] == [1, 2, 3]


def test_the_event_file_is_valid_for_the_librarys_own_checksum(tmp_path):
    from tensorboardX.record_writer import masked_crc32c

    tracker = TensorBoard(tmp_path)
    tracker.log(1, {"loss": 1.0})
    tracker.close()
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    size = int.from_bytes(content[:8], "little")
    assert int.from_bytes(content[8:12], "little") == masked_crc32c(content[:8])
    assert int.from_bytes(content[12 + size : 16 + size], "little") == masked_crc32c(content[12 : 12 + size])


def test_unknown_tracker_is_explained():
    with pytest.raises(MemrlError, match=r"unknown tracker 'tensorbord': did you mean 'tensorboard'\? "):
        TRACKERS["tensorbord"]


def test_wandb_without_its_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MemrlError, match=r"pip install memrl\[wandb\]"):
        TRACKERS["wandb"](tmp_path, None, {})


def test_wandb_logs_over_env_steps_and_resumes_the_same_run(tmp_path, monkeypatch):
    calls = []
    run = types.SimpleNamespace(
        id="abc",
        log=lambda record: calls.append(record),
        define_metric=lambda *args, **kwargs: calls.append((args, kwargs)),
        finish=lambda: calls.append("finish"),
    )
    wandb = types.ModuleType("wandb")
    wandb.init = lambda **kwargs: calls.append(kwargs) or run  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for expected in (None, "abc"):
        calls.clear()
        tracker = TRACKERS["wandb"](tmp_path / "my_run" / "events", None, {"seed": 1})
        tracker.log(10, {"loss": 0.5, "episode_return": math.nan})
        tracker.close()
        init, define, record, end = calls
        assert (init["id"], init["resume"], init["name"]) == (expected, "allow", "my_run")
        assert init["config"] == {"seed": 1}
        assert define == (("*",), {"step_metric": "env_steps"})
        assert (record, end) == ({"env_steps": 10, "loss": 0.5}, "finish")


def test_importing_trackers_imports_no_tracker():
    code = (
        "    import memrl.runner.trackers; "
        "assert not {'wandb', 'tensorboardX', 'matplotlib'} & set(sys.modules), 'imported too early'"
    )
    subprocess.run([sys.executable, "-c", BARE + code], check=True)
