"""A table of named things, whose misses explain themselves."""

from collections.abc import Iterator, Mapping
from typing import TypeVar

from memrl.errors import unknown_name

T = TypeVar("T")


class Registry(Mapping[str, T]):
    """Names of one `kind` ("core", "environment", "agent") and what they stand for, in order of registration.

    Looking up an unknown name raises `MemrlError` with the nearest match and all known names.
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str, entry: T) -> None:
        """Adds `entry` under `name`; a name is taken once."""
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered already")
        self._entries[name] = entry

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            raise unknown_name(self.kind, name, self._entries)
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
