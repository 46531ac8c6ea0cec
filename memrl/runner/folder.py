"""The folder that a run leaves behind: what lies where, and who may write to it."""

import errno
import fcntl
import importlib.metadata
import json
import math
import os
import platform
import shutil
from pathlib import Path
from typing import Any, Self

import numpy as np

from memrl.errors import MemrlError

_LOCK = ".lock"
_PACKAGES = ("memrl", "jax", "jaxlib", "flax", "optax", "distrax", "gymnax", "numpy")
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)  # some network file systems


class RunFolder:
    """Paths in the folder of a run; made by `create` it is also the only writer, until `close`.

    A context manager. The kernel frees the lock when the process ends, however it ends.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self.config_json = self.path / "config.json"
        self.config_py = self.path / "config.py"
        self.versions_json = self.path / "versions.json"
        self.metrics_csv = self.path / "metrics.csv"
        self.events = self.path / "events"
        self.checkpoints = self.path / "checkpoints"
        self.evaluation_json = self.path / "evaluation.json"
        self.facts_json = self.path / "facts.json"
        self.learning_curve_png = self.path / "learning_curve.png"
        self._lock: int | None = None

    @classmethod
    def create(cls, path: Path, resume: bool = False) -> Self:
        """The locked folder of a new run, or with `resume` of a run to be continued.

        Raises `MemrlError` if a new run's folder is not empty, if there is nothing to resume, if another
        process uses the folder, or if the operating system refuses.
        """
        folder = cls(path)
        try:
            if not resume:
                folder.path.mkdir(parents=True, exist_ok=True)
            elif not folder.path.is_dir():
                raise MemrlError(f"nothing to resume: run folder {path} does not exist")
            folder._acquire()
        except OSError as error:
            raise MemrlError(f"cannot use run folder {path}: {error.strerror}") from error
        try:
            folder._check_content(resume)
        except BaseException:
            folder.close()
            raise
        return folder

    def write_config(self, config: Any, script: Path | None = None) -> None:
        """Writes the resolved config, and copies the config script if there is one."""
        write_json(self.config_json, config)  # first: with it, a run that is killed here can be continued
        if script is not None:
            shutil.copyfile(script, self.config_py)

    def write_versions(self) -> None:
        """Writes `versions()`."""
        write_json(self.versions_json, versions())

    def close(self) -> None:
        """Lets others use the folder; closing twice is fine."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        """The folder itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Lets others use the folder."""
        self.close()

    def _acquire(self) -> None:
        # The file stays when the lock is freed: without it two processes could lock two files of one name.
        self._lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.read(self._lock, 32).decode(errors="replace").strip()
            self.close()
            raise MemrlError(f"run folder {self.path} is in use by process {owner or 'unknown'}") from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                self.close()
                raise
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def _check_content(self, resume: bool) -> None:
        # A run that was killed before it wrote anything has not begun: there is nothing in it to protect.
        begun = any(entry.name != _LOCK and entry.suffix != ".tmp" for entry in self.path.iterdir())
        if begun and not resume:
            hint = "pass --resume to continue it or choose another with --out"
            raise MemrlError(f"run folder {self.path} exists: {hint}")
        if begun:
            try:
                json.loads(self.config_json.read_text())
            except (OSError, ValueError) as error:
                raise MemrlError(f"nothing to resume: {self.path} holds no whole config.json") from error


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as strict JSON, so that `path` holds either its old or its new content at any moment.

    NumPy and JAX numbers and arrays become numbers and lists, paths text, NaN and infinities null.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps(_plain(value), indent=2, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def versions() -> dict[str, Any]:
    """Python, the packages that decide a run's numbers, and the machine."""
    import jax

    devices = jax.devices()
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "backend": jax.default_backend(),
        "device_kind": devices[0].device_kind,
        "device_count": len(devices),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "__array__"):
        return _plain(np.asarray(value).tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
