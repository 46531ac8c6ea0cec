"""The metrics of a run as a table: one row per update and seed, the same bytes for the same run."""

import io
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np

from memrl.errors import MemrlError

RETURN = "episode_return"  # the metric that curves, progress and reports show
_INDEX = ("seed", "update", "env_steps")


class MetricsFile:
    """Appends the metrics of every chunk of updates to a CSV file; one process writes.

    With `resume_update=None` the file must not exist. Otherwise the run goes on with that update (counted
    from 0): rows from there on, and a last line that a kill cut short, are dropped, so that the finished file
    equals that of a run that was never interrupted. Raises `MemrlError` if earlier updates are missing.
    """

    def __init__(self, path: Path, resume_update: int | None = None):
        self.path = Path(path)
        self._names: list[str] | None = None
        if resume_update is None and self.path.exists():
            raise MemrlError(f"{self.path} exists: metrics of another run are never overwritten")
        if resume_update is not None:
            self._names = _rewind(self.path, resume_update)
        self._file: BinaryIO = self.path.open("ab")

    def append(self, first_update: int, steps_per_update: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Writes metrics `[n, S]` of the updates from `first_update` on; they are on disk when this returns.

        `env_steps` of a row counts the environment steps of one seed up to the end of that update.
        Names must be the same at every call; floats get as many digits as give them back exactly.
        """
        columns = {name: _shaped(name, values) for name, values in metrics.items()}
        names = self._columns(columns)
        n, seeds = _common_shape(columns)
        cells = [[str(value) for value in columns[name].flat] for name in names]
        rows = [
            f"{i % seeds},{first_update + i // seeds},{(first_update + i // seeds + 1) * steps_per_update},"
            + ",".join(column[i] for column in cells)
            for i in range(n * seeds)
        ]
        self._write("".join(row + "\n" for row in rows))

    def close(self) -> None:
        """Closes the file; closing twice is fine."""
        self._file.close()

    def __enter__(self) -> Self:
        """The file itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Closes the file."""
        self.close()

    def _columns(self, metrics: Mapping[str, np.ndarray]) -> list[str]:
        """The order of the columns; the first call decides it and writes the header."""
        if self._names is None:
            for name in metrics:
                if name in _INDEX or set(name) & set(',"\n\r'):
                    raise ValueError(f"{name!r} cannot be the name of a metric")
            self._names = list(metrics)
            self._write(",".join([*_INDEX, *metrics]) + "\n")
        if set(self._names) != set(metrics):
            changed = ", ".join(sorted(set(self._names) ^ set(metrics)))
            raise MemrlError(f"{self.path} holds other metrics than this run writes: {changed}")
        return self._names

    def _write(self, text: str) -> None:
        self._file.write(text.encode())
        self._file.flush()
        os.fsync(self._file.fileno())


def read_metrics(path: Path) -> dict[str, np.ndarray]:
    """The table as arrays: int64 `seed [S]`, `update [n]`, `env_steps [n]`, and float64 `[n, S]` per metric.

    An unfinished last update, the mark of a killed run, is left out; `astype(float32)` gives the exact values
    that were written. Raises `MemrlError` if the file is missing or anything else is wrong with it.
    """
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise MemrlError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'not text'}") from error
    names, _, body = text.partition("\n")
    columns = names.split(",")
    if tuple(columns[: len(_INDEX)]) != _INDEX or not text.count("\n"):
        raise MemrlError(f"{path} is no metrics file: its first line is not 'seed,update,env_steps,...'")
    table = _parse(path, body[: body.rfind("\n") + 1], len(columns))
    return _unstack(path, dict(zip(columns, table.T, strict=True)))


def _parse(path: Path, body: str, width: int) -> np.ndarray:
    if not body:
        return np.zeros((0, width))
    try:
        table = np.loadtxt(io.StringIO(body), delimiter=",", ndmin=2, comments=None)
    except ValueError as error:
        raise MemrlError(f"{path} is damaged: {' '.join(str(error).split())}") from error
    if table.shape[1] != width:
        raise MemrlError(f"{path} is damaged: {table.shape[1]} columns where the header names {width}")
    return table


def _unstack(path: Path, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Columns `[n * S]`, seeds varying fastest, to `[n, S]`."""
    seeds = int(np.nan_to_num(columns["seed"], posinf=0).max(initial=0)) + 1
    n = len(columns["seed"]) // seeds
    grid = {name: column[: n * seeds].reshape(n, seeds) for name, column in columns.items()}
    update, env_steps = grid["update"][:, :1], grid["env_steps"][:, :1]
    whole = (
        np.array_equal(columns["seed"], np.arange(len(columns["seed"])) % seeds)
        and (grid["update"] == update).all()
        and (grid["env_steps"] == env_steps).all()
        and (np.diff(update[:, 0]) == 1).all()
    )
    if not whole:
        raise MemrlError(f"{path} is damaged: its rows are not every seed of one update after the other")
    index = {"seed": np.arange(seeds), "update": update[:, 0], "env_steps": env_steps[:, 0]}
    return {**grid, **{name: values.astype(np.int64) for name, values in index.items()}}


def _rewind(path: Path, resume_update: int) -> list[str] | None:
    """Drops from the file what does not belong before `resume_update`; returns the names of its metrics."""
    if not path.exists():
        path.touch()
    temporary = path.with_name(path.name + ".tmp")
    with path.open("rb") as old, temporary.open("wb") as new:
        header = old.readline()
        names = header.decode(errors="replace").strip().split(",")[len(_INDEX) :]
        rows: Counter[int] = Counter()
        if header.endswith(b"\n"):
            new.write(header)
            for update, line in _rows_before(path, old, resume_update):
                new.write(line)
                rows[update] += 1
        new.flush()
        os.fsync(new.fileno())
    missing = next((u for u in range(resume_update) if rows[u] != rows[0] or not rows[u]), None)
    if missing is not None:
        temporary.unlink()
        raise MemrlError(f"{path} lacks rows of update {missing}, so the run cannot go on with update {resume_update}")
    temporary.replace(path)
    return names if header.endswith(b"\n") else None


def _rows_before(path: Path, lines: BinaryIO, update: int) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(lines, start=2):
        try:
            found = int(line.split(b",")[1])
        except (IndexError, ValueError) as error:
            if not line.endswith(b"\n"):
                return
            raise MemrlError(f"{path} is damaged: line {number} holds no update") from error
        if found >= update or not line.endswith(b"\n"):
            return
        yield found, line


def _shaped(name: str, values: np.ndarray) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != 2:
        raise ValueError(f"metric {name!r} must be [updates, seeds], not of shape {values.shape}")
    if values.dtype == bool:
        return values.astype(np.int32)
    # bfloat16 and its like print neither exactly nor with their own digits.
    return values if values.dtype.kind in "iu" or values.dtype == np.float64 else values.astype(np.float32)


def _common_shape(columns: Mapping[str, np.ndarray]) -> tuple[int, int]:
    shapes = {values.shape for values in columns.values()}
    if len(shapes) != 1:
        raise ValueError(f"metrics must share one shape [updates, seeds], not {sorted(shapes)}")
    return shapes.pop()
