import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import memrl
from memrl.errors import MemrlError
from memrl.runner.folder import RunFolder, versions, write_json

# Start of a script that imports single modules of memrl, without all that its __init__ imports.
BARE = f"""if True:
    import sys, types
    sys.modules["memrl"] = types.ModuleType("memrl")
    sys.modules["memrl"].__path__ = {list(memrl.__path__)!r}
"""


@pytest.fixture
def begun(tmp_path):
    with RunFolder.create(tmp_path / "run") as folder:
        folder.write_config({"seed": 1})
    return folder.path


def test_a_new_run_may_use_a_missing_or_an_empty_folder(tmp_path):
    for path in (tmp_path / "a" / "b", tmp_path / "empty"):
        if path.name == "empty":
            path.mkdir()
        with RunFolder.create(path) as folder:
            assert folder.path.is_dir()
        RunFolder.create(path).close()  # a run that was killed before it wrote anything is no run


def test_the_layout():
    folder = RunFolder(Path("runs/x"))
    names = {k: str(v) for k, v in vars(folder).items() if isinstance(v, Path)}
    assert names == {
        "path": "runs/x",
        "config_json": "runs/x/config.json",
        "config_py": "runs/x/config.py",
        "versions_json": "runs/x/versions.json",
        "metrics_csv": "runs/x/metrics.csv",
        "events": "runs/x/events",
        "checkpoints": "runs/x/checkpoints",
        "evaluation_json": "runs/x/evaluation.json",
        "facts_json": "runs/x/facts.json",
        "learning_curve_png": "runs/x/learning_curve.png",
    }


def test_a_run_is_not_overwritten(begun):
    with pytest.raises(MemrlError) as error:
        RunFolder.create(begun)
    hint = "pass --resume to continue it or choose another with --out"
    assert str(error.value) == f"run folder {begun} exists: {hint}"
    RunFolder.create(begun, resume=True).close()  # and the refusal has freed the lock


def test_resuming_what_is_not_there(tmp_path, begun):
    with pytest.raises(MemrlError, match=r"nothing to resume: run folder .*/none does not exist"):
        RunFolder.create(tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()
    (begun / "metrics.csv").write_text("seed,update,env_steps\n")
    for content in (None, '{"seed": '):
        (begun / "config.json").unlink() if content is None else (begun / "config.json").write_text(content)
        with pytest.raises(MemrlError, match=r"nothing to resume: .*/run holds no whole config.json"):
            RunFolder.create(begun, resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_killed_before_it_began_starts_anew(tmp_path, resume):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json.tmp").write_text('{"se')
    RunFolder.create(tmp_path / "run", resume=resume).close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission_gives_the_systems_reason(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(MemrlError, match="Permission denied"):
        RunFolder.create(tmp_path / "run")


def test_what_the_system_refuses_gives_its_reason(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MemrlError, match=r"cannot use run folder .*/file/run: Not a directory"):
        RunFolder.create(tmp_path / "file" / "run")
    with pytest.raises(MemrlError, match=r"cannot use run folder .*/file: File exists"):
        RunFolder.create(tmp_path / "file")


HOLDER = """if True:
    import sys, time
    from pathlib import Path
    from memrl.runner.folder import RunFolder
    folder = RunFolder.create(Path(sys.argv[1]), resume=True)
    print("held", flush=True)
    time.sleep(60)
"""


def test_two_processes_do_not_share_a_folder_and_a_killed_ones_lock_is_free(begun):
    with subprocess.Popen(
        [sys.executable, "-c", BARE + HOLDER, str(begun)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        for resume in (True, False):
            with pytest.raises(MemrlError, match=f"run folder {begun} is in use by process {holder.pid}$"):
                RunFolder.create(begun, resume=resume)
        holder.kill()
    RunFolder.create(begun, resume=True).close()


def test_one_process_takes_a_folder_once_and_gives_it_back(begun):
    with (
        RunFolder.create(begun, resume=True) as folder,
        pytest.raises(MemrlError, match=f"in use by process {os.getpid()}"),
    ):
        RunFolder.create(begun, resume=True)
    folder.close()
    RunFolder.create(begun, resume=True).close()


def test_a_file_system_without_locks_is_used_without(begun, monkeypatch):
    def refuse(code):
        def flock(*args):
            raise OSError(code, os.strerror(code))

        return flock

    monkeypatch.setattr(fcntl, "flock", refuse(errno.ENOTSUP))
    RunFolder.create(begun, resume=True).close()
    monkeypatch.setattr(fcntl, "flock", refuse(errno.EIO))
    with pytest.raises(MemrlError, match="Input/output error"):
        RunFolder.create(begun, resume=True)


def test_json_is_strict_and_knows_arrays(tmp_path):
    value = {
        "a": np.float32(0.5), "b": jnp.arange(2), "c": (1, float("nan")), "d": Path("x/y"), 1: -np.inf,
        "e": np.array([1.0, np.nan]), "f": True, "g": None,
    }  # fmt: skip
    write_json(tmp_path / "v.json", value)
    assert json.loads((tmp_path / "v.json").read_text(), parse_constant=pytest.fail) == {
        "a": 0.5, "b": [0, 1], "c": [1, None], "d": "x/y", "1": None, "e": [1.0, None], "f": True, "g": None,
    }  # fmt: skip


def test_json_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "v.json"
    write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        write_json(path, {"new": 1, "bad": object()})
    assert json.loads(path.read_text()) == {"old": 1}
    with path.open() as reader:
        write_json(path, {"new": "longer than before"})
        assert json.load(reader) == {"old": 1}, "a reader keeps the file it opened"
    assert json.loads(path.read_text()) == {"new": "longer than before"}
    assert [p.name for p in tmp_path.iterdir()] == ["v.json"]


def test_the_config_script_is_copied(tmp_path):
    script = tmp_path / "my_config.py"
    script.write_text("experiment = 1\n")
    with RunFolder.create(tmp_path / "run") as folder:
        folder.write_config({"seed": 1}, script)
    assert folder.config_py.read_text() == "experiment = 1\n"
    assert json.loads(folder.config_json.read_text()) == {"seed": 1}


def test_versions(tmp_path):
    with RunFolder.create(tmp_path / "run") as folder:
        folder.write_versions()
    found = json.loads(folder.versions_json.read_text())
    assert found == versions()
    assert found["numpy"] == np.__version__
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    packages = {"python", "jax", "jaxlib", "flax", "optax", "gymnax", "distrax", "memrl", "numpy"}
    assert packages | {"platform", "backend", "device_kind", "device_count"} == set(found)
    assert all(found[name] != "not installed" for name in packages - {"memrl"})
