"""Sweeps: values of a field of an experiment, given as a list or as a range, and put into the experiment."""

import dataclasses
import math
import typing
from collections.abc import Sequence
from typing import Any, NamedTuple

from memrl.config import describe, is_a
from memrl.envs import env_options
from memrl.errors import MemrlError, check, unknown_name
from memrl.experiment import Experiment


class Sweep(NamedTuple):
    """A field, and the values that it is to have."""

    field: str  # "agent.learning_rate"
    values: tuple[str, ...]  # as they were written


def parse_sweep(text: str) -> Sweep:
    """FIELD=VALUE,VALUE,... or FIELD=FIRST:LAST:COUNT, evenly spaced; with :log after it, so that ratios are even.

    Raises:
        MemrlError: for another text.
    """
    name, equals, values = text.partition("=")
    check(bool(name and equals and values), f"sweep is {text!r}, expected FIELD=VALUE,VALUE or FIELD=FIRST:LAST:COUNT")
    listed = [v for part in values.split(",") for v in (_spread(part, text) if ":" in part else [part.strip()])]
    check("" not in listed, f"sweep is {text!r}, expected no empty value")
    twice = next((v for i, v in enumerate(listed) if v in listed[:i]), None)
    check(twice is None, f"sweep is {text!r}, expected every value once, not {twice} again")
    return Sweep(name.strip().replace("-", "_"), tuple(listed))


def _spread(part: str, text: str) -> list[str]:
    """The values of a range."""
    first, last, count, *rest = [*part.split(":"), "", ""][:5]
    try:
        low, high, n = float(first), float(last), int(count)
    except ValueError:
        raise MemrlError(f"sweep is {text!r}, expected a range as 0.9:1.0:3 or 1e-5:1e-3:3:log, not {part!r}") from None
    check(n >= 2, f"sweep is {text!r}, expected at least 2 values in {part!r}")
    spacing = rest[0] if rest else ""
    check(spacing in ("", "log") and part.count(":") <= 3, f"sweep is {text!r}, expected nothing or log after {count}")
    if spacing == "log":
        check(low > 0 and high > 0, f"sweep is {text!r}, expected a range above 0 for log")
        numbers = [math.exp(math.log(low) + i / (n - 1) * (math.log(high) - math.log(low))) for i in range(n)]
    else:
        numbers = [low + i / (n - 1) * (high - low) for i in range(n)]
    return [f"{x:.10g}" for x in numbers]  # the ends as they were written, not 0.30000000000000004


def with_value(experiment: Experiment, field: str, text: str) -> Experiment:
    """The experiment with the value that is written as `text` in a field such as "agent.learning_rate".

    Fields are those that `memrl train --help` lists: "env.length" is an option of the environment, "core.1.window"
    belongs to the second of several cores.

    Raises:
        MemrlError: for a field that the experiment does not have, or a value that it cannot have.
    """
    first, *rest = field.split(".")
    if first == "env" and rest:
        known = {**env_options(experiment.env), **experiment.env_options}
        _check_known(".".join(rest), known, f"option of {experiment.env}")
        value = _read(text, type(known[rest[0]]), f"{experiment.env}: {rest[0]}")
        return dataclasses.replace(experiment, env_options={**experiment.env_options, rest[0]: value})
    return _replace(experiment, [first, *rest], text, field)


def _replace(owner: Any, path: Sequence[str], text: str, field: str) -> Any:
    """A copy of a dataclass or tuple of them with one value, deep inside, replaced."""
    name, *rest = path
    if isinstance(owner, tuple):
        _check_known(name, map(str, range(len(owner))), f"core in {field}")
        i = int(name)
        return (*owner[:i], _replace(owner[i], rest, text, field) if rest else owner[i], *owner[i + 1 :])
    names = [f.name for f in dataclasses.fields(owner)]
    _check_known(name, names, f"field of {owner.owner}")
    value = getattr(owner, name)
    if rest:
        inside = dataclasses.is_dataclass(value) or isinstance(value, tuple)
        check(inside, f"{owner.owner}: {name} has no field {'.'.join(rest)!r}")
        return dataclasses.replace(owner, **{name: _replace(value, rest, text, field)})
    hint = typing.get_type_hints(type(owner))[name]
    return dataclasses.replace(owner, **{name: _read(text, hint, f"{owner.owner}: {name}")})


def _check_known(name: str, known: typing.Iterable[str], kind: str) -> None:
    known = list(known)
    if name not in known:
        raise unknown_name(kind, name, known)


def _read(text: str, hint: Any, what: str) -> Any:
    """The value of a type that is written as `text`."""
    readers = [{"none": None}.__getitem__, {"true": True, "false": False}.__getitem__]
    readers += [float, int] if is_a(0.5, hint) else [int]  # an int passes for a float, but is not written as one
    for reader in [*readers, str]:
        try:
            value = reader(text.lower() if reader in readers[:2] else text)
        except (KeyError, ValueError):
            continue
        if is_a(value, hint):
            return value
    raise MemrlError(f"{what} is {text!r}, expected {describe(hint)}")
