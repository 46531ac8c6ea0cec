"""What the parts of a network measure in an unroll, brought together: scalars by name."""

from collections.abc import Iterable, Sequence

from memrl.types import Array

Metrics = dict[str, Array]


def names_in(parts: Iterable[Iterable[str]]) -> tuple[str, ...]:
    """All names, sorted."""
    return tuple(sorted({name for part in parts for name in part}))


def means_by_name(parts: Sequence[Metrics]) -> Metrics:
    """The mean of each metric over the parts that have it."""

    def mean(name: str) -> Array:
        values = [part[name] for part in parts if name in part]
        return sum(values[1:], values[0]) / len(values)

    return {name: mean(name) for name in names_in(parts)}
