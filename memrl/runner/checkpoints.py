"""Checkpoints that survive a kill at any moment, and that notice when their bytes were damaged.

    <folder>/update_00000120/manifest.json    what it holds, and the size and SHA-256 of every file
    <folder>/update_00000120/state/...        the arrays, written by Orbax

A checkpoint is written to a temporary folder, made durable, and only then given its name.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from memrl.errors import MemrlError, check
from memrl.types import PyTree

_PREFIX = "update_"
_TEMPORARY = ".tmp_"
_MANIFEST = "manifest.json"
_STATE = "state"
_METADATA_BYTES = 1 << 16


class Restored(NamedTuple):
    """What `Checkpoints.restore` found."""

    update: int  # number of updates done when the state was saved
    state: PyTree  # structure, dtypes and placement of `like`
    skipped: tuple[str, ...]  # newer checkpoints that are damaged: "name: what is wrong"


class Checkpoints:
    """The newest `keep` states of a run, one per folder under `folder`.

    Written by one process; others may read meanwhile. Creating the object touches nothing on disk.
    """

    def __init__(self, folder: Path, keep: int = 2):
        check(keep >= 1, f"keep={keep}: at least 1 checkpoint must be kept")
        self.folder = Path(folder).absolute()
        self.keep = keep

    def save(self, update: int, state: PyTree) -> None:
        """Saves the `state` after `update` updates; it is on disk, whole, when this returns.

        Leaves may be arrays of any dtype and shape, typed random keys, and Python numbers. Afterwards only
        the newest `keep` checkpoints up to `update` are left: later ones belong to an abandoned future.
        Raises `OSError` where the system refuses; earlier checkpoints stay.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remove_temporary_folders()
        temporary = self.folder / f"{_TEMPORARY}{os.getpid()}_{update}"
        temporary.mkdir()
        try:
            _write_state(temporary / _STATE, state)
            _write_manifest(temporary, state)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)  # where the disk is full, it is in the way
            raise
        target = self._path(update)
        if target.exists():
            self._remove(target)
        temporary.rename(target)
        _fsync(self.folder)
        self._prune(update)

    def updates(self) -> list[int]:
        """The updates that have a checkpoint whose files are all there with the right sizes, sorted."""
        return [update for update in self._named() if not _damage(self._path(update), read=False)]

    def restore(self, like: PyTree, last: int | None = None) -> Restored:
        """The newest whole checkpoint, or that of no later update than `last`, with the structure, dtypes and sharding
        of `like`.

        Raises `MemrlError` if no checkpoint is whole, or if the newest whole one holds other leaves.
        """
        skipped = []
        for update in reversed([u for u in self._named() if last is None or u <= last]):
            path = self._path(update)
            damage = _damage(path, read=True)
            if not damage:
                return Restored(update, _read_state(path, like), tuple(skipped))
            skipped.append(f"{path.name}: {damage}")
        reason = f"; damaged: {', '.join(skipped)}" if skipped else ""
        raise MemrlError(f"no whole checkpoint in {self.folder}{reason}")

    def _path(self, update: int) -> Path:
        return self.folder / f"{_PREFIX}{update:08d}"

    def _named(self) -> list[int]:
        numbers = (path.name.removeprefix(_PREFIX) for path in self.folder.glob(f"{_PREFIX}*"))
        return sorted(int(number) for number in numbers if number.isdecimal())

    def _prune(self, update: int) -> None:
        kept = [u for u in self.updates() if u <= update][-self.keep :]
        for u in self._named():
            if u not in kept:
                self._remove(self._path(u))

    def _remove(self, path: Path) -> None:
        # Renamed first: a kill halfway through must not leave half a checkpoint under a checkpoint's name.
        doomed = path.with_name(_TEMPORARY + path.name)
        path.rename(doomed)
        shutil.rmtree(doomed)

    def _remove_temporary_folders(self) -> None:
        for path in self.folder.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(path)


# Arrays, through Orbax. Its import takes a fifth of a second, hence inside the functions.


def _write_state(path: Path, state: PyTree) -> None:
    import orbax.checkpoint as ocp

    arrays = {name: np.asarray(_plain(leaf)) for name, leaf in _stored(jax.tree.leaves(state)).items()}
    _check_space(path.with_name("space"), sum(array.nbytes for array in arrays.values()) + _METADATA_BYTES)
    try:
        with _checkpointer() as checkpointer:
            checkpointer.save(path, args=ocp.args.PyTreeSave(arrays))
    except ValueError as error:  # TensorStore's, which quotes the system's
        code = re.search(r"os_error_code='(\d+)'", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error


def _check_space(path: Path, size: int) -> None:
    """Raises `OSError` where the disk has no room for that many bytes: else each of Orbax's threads logs that."""
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # the answers of file systems that cannot tell
                raise
    path.unlink()


def _read_state(path: Path, like: PyTree) -> PyTree:
    import orbax.checkpoint as ocp

    _check_fits(path, _read_manifest(path)["leaves"], _describe(like))
    leaves, structure = jax.tree.flatten(like)
    names = dict.fromkeys(_stored(leaves), 0)
    as_numpy = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names}
    with _checkpointer() as checkpointer:
        args = ocp.args.PyTreeRestore(item=names, restore_args=as_numpy)
        arrays = checkpointer.restore(path / _STATE, args=args)
    values = [arrays[_name(i)] if _name(i) in arrays else _empty(leaf) for i, leaf in enumerate(leaves)]
    return structure.unflatten([_placed(v, leaf) for v, leaf in zip(values, leaves, strict=True)])


def _checkpointer() -> Any:
    import orbax.checkpoint as ocp

    # Of several processes that train a run only one comes here: Orbax is not to wait for the others.
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(), active_processes={jax.process_index()}, barrier_sync_key_prefix="memrl"
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _stored(leaves: list[Any]) -> dict[str, Any]:
    # Orbax refuses arrays without elements, and there is nothing in them to store.
    return {_name(i): leaf for i, leaf in enumerate(leaves) if np.size(leaf) > 0}


def _name(index: int) -> str:
    return f"{index:05d}"


def _plain(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _empty(like: Any) -> np.ndarray:
    plain = jax.eval_shape(_plain, like)
    return np.zeros(plain.shape, plain.dtype)


def _placed(value: np.ndarray, like: Any) -> Any:
    """`value` as the kind of leaf that `like` is, where `like` is."""
    if not isinstance(like, jax.Array | jax.ShapeDtypeStruct):
        return value if isinstance(like, np.ndarray) else type(like)(value[()])
    array = jnp.asarray(value)
    if _is_key(like):
        array = jax.random.wrap_key_data(array, impl=_key_implementation(like))
    elif like.weak_type:
        # A strong dtype would promote differently, and make compiled code reject the state.
        array = jnp.broadcast_to(jnp.asarray(value.dtype.type(0).item()), value.shape).at[...].set(array)
    # An array that was never pinned to a device must not become pinned: jit would compile again.
    pinned = like.sharding is not None and getattr(like, "committed", True)
    return jax.device_put(array, like.sharding) if pinned else array


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | jax.ShapeDtypeStruct) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _key_implementation(keys: Any) -> Any:
    found = []
    jax.eval_shape(lambda k: found.append(jax.random.key_impl(k)), keys)
    return found[0]


# The manifest.


def _write_manifest(path: Path, state: PyTree) -> None:
    """Makes every file below `path` durable, and records what must be found there."""
    content = {"leaves": _describe(state), "files": {}}
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        _fsync(file)
        content["files"][file.relative_to(path).as_posix()] = [file.stat().st_size, _sha256(file)]
    sealed = {"sha256": _seal(content), **content}
    (path / _MANIFEST).write_text(json.dumps(sealed, indent=1))
    _fsync(path / _MANIFEST)
    for folder in [p for p in path.rglob("*") if p.is_dir()]:
        _fsync(folder)
    _fsync(path)


def _read_manifest(path: Path) -> dict[str, Any]:
    content = json.loads((path / _MANIFEST).read_text())
    if content.pop("sha256") != _seal(content):
        raise ValueError("its checksum is wrong")
    return content


def _damage(path: Path, read: bool) -> str:
    """What is wrong with the checkpoint at `path`, or ""; reads every byte only if asked to."""
    try:
        files = _read_manifest(path)["files"]
    except FileNotFoundError:
        return f"{_MANIFEST} is missing"
    except (OSError, ValueError, KeyError, AttributeError):
        return f"{_MANIFEST} is damaged"
    found = (_file_damage(path, name, size, sha256, read) for name, (size, sha256) in files.items())
    return next(filter(None, found), "")


def _file_damage(path: Path, name: str, size: int, sha256: str, read: bool) -> str:
    with contextlib.suppress(OSError):
        found = (path / name).stat().st_size
        if found != size:
            return f"{name} has {found} bytes instead of {size}"
        return f"{name} was altered" if read and _sha256(path / name) != sha256 else ""
    return f"{name} is missing or unreadable"


def _describe(state: PyTree) -> list[list[str]]:
    """Path and type of every leaf, such as `["['params']['w']", "float32[64,32]"]`."""
    return [[jax.tree_util.keystr(path), _type_name(leaf)] for path, leaf in jax.tree_util.tree_leaves_with_path(state)]


def _type_name(leaf: Any) -> str:
    dtype = leaf.dtype if hasattr(leaf, "dtype") else type(leaf).__name__
    return f"{dtype}[{','.join(map(str, np.shape(leaf)))}]"


def _check_fits(path: Path, saved: Iterable[list[str]], wanted: Iterable[list[str]]) -> None:
    there, here = dict(saved), dict(wanted)
    for name in [*here, *there]:
        if there.get(name) != here.get(name):
            found, needed = there.get(name, "missing"), here.get(name, "missing")
            raise MemrlError(
                f"checkpoint {path} does not fit this experiment: "
                f"{name or 'the state'} is {found} there and {needed} here"
            )


def _seal(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
