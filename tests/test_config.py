"""Typed configurations: overrides, JSON, and what is said of a mistake."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import pytest

from memrl import MemrlError
from memrl.config import Config, describe, from_json, is_a, override
from memrl.errors import check


@dataclasses.dataclass(frozen=True)
class Inner(Config):
    owner: ClassVar[str] = "inner"

    width: int = 4
    mode: Literal["fast", "slow"] = "fast"

    def check(self):
        check(self.width > 0, f"inner: width is {self.width}, expected more than 0")


@dataclasses.dataclass(frozen=True)
class Outer(Config):
    owner: ClassVar[str] = "outer"

    name: str
    rate: float = 0.1
    limit: float | None = None
    sizes: tuple[int, ...] = (1, 2)
    inner: Inner = Inner()
    options: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def check(self):
        self.check_positive("rate", "limit")


FULL = Outer("a", 1, 2.5, (), Inner(7, "slow"), {"x": 1})


@pytest.mark.parametrize("config", [Outer("a"), FULL], ids=["defaults", "full"])
def test_json_round_trip(config):
    assert from_json(Outer, json.loads(json.dumps(dataclasses.asdict(config))), "outer") == config


def test_fields_may_be_left_out_where_there_is_a_default():
    assert from_json(Outer, {"name": "a", "inner": {"mode": "slow"}}, "outer") == Outer("a", inner=Inner(4, "slow"))


MISTAKES = {
    "unknown": ({"rat": 1.0}, "unknown field of outer 'rat': did you mean 'rate'?"),
    "unknown inside": (
        {"inner": {"widht": 1}},
        "unknown field of outer.inner 'widht': did you mean 'width'",
    ),
    "type": ({"rate": "fast"}, "outer: rate is 'fast', expected float"),
    "type inside": ({"inner": {"width": "x"}}, "outer.inner: width is 'x', expected int"),
    "int for str": ({"name": 3}, "outer: name is 3, expected str"),
    "optional": ({"limit": "x"}, "outer: limit is 'x', expected float or None"),
    "tuple": ({"sizes": [1, "x"]}, "outer: sizes is (1, 'x'), expected a tuple of int"),
    "choice": ({"inner": {"mode": "x"}}, "outer.inner: mode is 'x', expected one of 'fast', 'slow'"),
    "no mapping": ({"inner": 3}, "outer: inner is 3, expected Inner"),
    "float for int": ({"inner": {"width": 4.0}}, "outer.inner: width is 4.0, expected int"),
    "bool for int": ({"inner": {"width": True}}, "outer.inner: width is True, expected int"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_in_json(case):
    fields, message = MISTAKES[case]
    with pytest.raises(MemrlError) as error:
        from_json(Outer, {"name": "a", **fields}, "outer")
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_missing_fields_and_no_fields():
    with pytest.raises(MemrlError, match=r"^outer has no field 'name'$"):
        from_json(Outer, {"rate": 0.1}, "outer")
    with pytest.raises(MemrlError, match=r"^outer is \[1\], expected its fields by name$"):
        from_json(Outer, [1], "outer")  # type: ignore[arg-type]


def test_override():
    assert override(Outer("a"), "outer", {"rate": 1, "sizes": (3,)}) == Outer("a", 1, sizes=(3,))
    with pytest.raises(MemrlError, match=r"^unknown hyperparameter of outer 'rat': did you mean 'rate'"):
        override(Outer("a"), "outer", {"rat": 1})
    with pytest.raises(MemrlError, match=r"^outer: rate is 'x', expected float$"):
        override(Outer("a"), "outer", {"rate": "x"})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Outer(3), "outer: name is 3, expected str"),  # type: ignore[arg-type]
        (lambda: Outer("a", rate=None), "outer: rate is None, expected float"),  # type: ignore[arg-type]
        (lambda: Outer("a", rate=0.0), "outer: rate is 0.0, expected more than 0"),
        (lambda: Outer("a", limit=float("nan")), "outer: limit is nan, expected more than 0"),
        (lambda: Inner(width=0), "inner: width is 0, expected more than 0"),
        (lambda: Inner(mode="x"), "inner: mode is 'x', expected one of 'fast', 'slow'"),  # type: ignore[arg-type]
        # Types first: a range cannot be judged with the wrong one.
        (lambda: Inner(width="x"), "inner: width is 'x', expected int"),  # type: ignore[arg-type]
        (lambda: dataclasses.replace(FULL, inner=3), "outer: inner is 3, expected Inner"),
    ],
)
def test_a_configuration_is_checked_when_it_is_made(make, message):
    with pytest.raises(MemrlError) as error:
        make()
    assert str(error.value) == message


YES = [
    (3, int),
    (3, float),
    (True, bool),
    (None, int | None),
    ((), tuple[int, ...]),
    ((1, "a"), tuple[int, str]),
    ({}, Mapping[str, int]),
    ("a", Literal["a", "b"]),
    (..., Any),
    (None, None),
]
NO = [
    (3.0, int),
    (True, int),
    (True, float),
    (1, bool),
    ("3", int),
    (None, int),
    ([1], tuple[int, ...]),
    ((1.5,), tuple[int, ...]),
    ((1,), tuple[int, str]),
    ([], Mapping[str, int]),
    ("c", Literal["a", "b"]),
    (0, None),
]


@pytest.mark.parametrize(("value", "hint"), YES, ids=str)
def test_is_of_type(value, hint):
    assert is_a(value, hint)


@pytest.mark.parametrize(("value", "hint"), NO, ids=str)
def test_is_not_of_type(value, hint):
    assert not is_a(value, hint)


def test_types_in_words():
    assert describe(int) == "int"
    assert describe(float | None) == "float or None"
    assert describe(tuple[int, ...]) == "a tuple of int"
    assert describe(Literal["a", 1]) == "one of 'a', 1"
    assert describe(Inner | tuple[Inner, ...]) == "Inner or a tuple of Inner"
