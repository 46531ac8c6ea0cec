"""Typed configurations: frozen dataclasses that can be overridden, checked, and written as JSON."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from memrl.errors import MemrlError, unknown_name

C = TypeVar("C")


class Config:
    """Base of the frozen dataclasses that users write: checked when it is made, types first, then ranges.

    Raises:
        MemrlError: naming the owner, the field, the value, and what was expected.
    """

    owner: ClassVar[str]  # what the fields belong to, for error messages: "core gru"

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            _check_type(self.owner, field.name, getattr(self, field.name), hints[field.name])
        self.check()

    def check(self) -> None:
        """Raises `MemrlError` for the first field that is out of range; types are right here."""

    def check_positive(self, *names: str) -> None:
        """Raises `MemrlError` for the first of these fields that is given and not above zero."""
        for name in names:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise MemrlError(f"{self.owner}: {name} is {value}, expected more than 0")


def override(config: C, owner: str, values: Mapping[str, Any]) -> C:
    """A copy of the frozen dataclass `config` with some fields replaced, each name and type checked.

    Args:
        config: the dataclass instance that supplies the other fields.
        owner: what the fields belong to, for the error message: "core gru".
        values: field name to new value.

    Raises:
        MemrlError: for an unknown field (with the nearest match and the known ones) or a value of the wrong type.
    """
    hints = typing.get_type_hints(type(config))
    known = [f.name for f in dataclasses.fields(config)]  # type: ignore[arg-type]
    for name, value in values.items():
        if name not in known:
            raise unknown_name(f"hyperparameter of {owner}", name, known)
        _check_type(owner, name, value, hints[name])
    return dataclasses.replace(config, **values)  # type: ignore[type-var]


def from_json(kind: type[C], data: Mapping[str, Any], owner: str) -> C:
    """The dataclass that `dataclasses.asdict` and JSON wrote: lists become tuples, nested mappings dataclasses.

    Raises:
        MemrlError: for an unknown or missing field, or a value of the wrong type.
    """
    if not isinstance(data, Mapping):
        raise MemrlError(f"{owner} is {data!r}, expected its fields by name")
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    values = {}
    for name, value in data.items():
        if name not in fields:
            raise unknown_name(f"field of {owner}", name, fields)
        if dataclasses.is_dataclass(hints[name]) and isinstance(value, Mapping):
            value = from_json(hints[name], value, f"{owner}.{name}")  # type: ignore[arg-type]
        values[name] = tuple(value) if isinstance(value, list) else value
        _check_type(owner, name, values[name], hints[name])  # before the constructor computes with it
    for name, field in fields.items():
        if name not in values and field.default is field.default_factory is dataclasses.MISSING:
            raise MemrlError(f"{owner} has no field {name!r}")
    return kind(**values)


def is_a(value: Any, hint: Any) -> bool:
    """Whether `value` has the annotated type `hint`; an int passes for a float, a bool only for a bool."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(is_a(value, option) for option in arguments)
    if origin is typing.Literal:
        return value in arguments
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return all(is_a(v, arguments[0]) for v in value)
        return len(value) == len(arguments) and all(map(is_a, value, arguments))
    if origin is not None:
        return isinstance(value, origin)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, type(None) if hint is None else hint)


def describe(hint: Any) -> str:
    """A type annotation in words: "int", "float or None", "one of 'a', 'b'"."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(describe, arguments))
    if origin is typing.Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if origin is tuple:
        return f"a tuple of {describe(arguments[0])}"
    return "None" if hint is type(None) else getattr(hint, "__name__", str(hint))


def _check_type(owner: str, name: str, value: Any, hint: Any) -> None:
    if not is_a(value, hint):
        raise MemrlError(f"{owner}: {name} is {value!r}, expected {describe(hint)}")
