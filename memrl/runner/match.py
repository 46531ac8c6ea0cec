"""Widths at which different cores cost the same, so that they can be compared."""

import dataclasses
import math
import re
from collections.abc import Callable
from functools import cache

import jax
from flax import nnx

from memrl.cores.facts import count, size_in_bytes
from memrl.errors import MemrlError, check
from memrl.experiment import Experiment, make_environment, network_maker
from memrl.networks import ActorCritic

STEP = 8  # widths are multiples of it
WIDEST = 512  # times STEP
CLOSE = 0.1  # how far off the target, relatively, the best width may be
UNIT_OF = {"parameters": "parameters", "state": "bytes of state"}
UNITS = {"": 1, "k": 1e3, "m": 1e6, "b": 1, "kib": 2**10, "mib": 2**20}


def match_width(experiment: Experiment, match: str) -> Experiment:
    """The experiment with the width (`network.features`) at which it meets `match`.

    Args:
        experiment: what to change the width of.
        match: "parameters=500k", of the whole network, or "state=64KiB", of the memory of one environment.

    Raises:
        MemrlError: for another text, or where no multiple of 8 comes within 10%.
    """
    what, _, amount = match.partition("=")
    measures: dict[str, Callable[[ActorCritic], int]] = {"parameters": _parameters, "state": _state_bytes}
    check(what in measures, f"match is {match!r}, expected parameters=COUNT or state=BYTES")
    target = _number(amount, match)
    environment = make_environment(experiment)

    @cache
    def size_at(multiple: int) -> int | None:
        """The size at a width, or None where the core cannot have it, as when heads do not divide it."""
        make_network = network_maker(_with_width(experiment, multiple * STEP), *environment)
        try:
            return measures[what](nnx.eval_shape(lambda: make_network(nnx.Rngs(0))))
        except MemrlError:
            return None

    sizes = _around(size_at, target)
    check(sizes != {}, f"match is {match!r}, but no width between {STEP} and {STEP * WIDEST} suits the core")
    best = min(sizes, key=lambda multiple: abs(math.log(max(sizes[multiple], 1) / target)))
    check(
        abs(sizes[best] / target - 1) <= CLOSE,
        f"match is {match!r}, but the nearest width, features = {best * STEP}, has {sizes[best]:,} {UNIT_OF[what]}",
    )
    return _with_width(experiment, best * STEP)


def _around(size_at: Callable[[int], int | None], target: float) -> dict[int, int]:
    """Sizes of widths on both sides of the target, by multiple of STEP; sizes grow with the width.

    Doubling first: what a core costs to make may grow with the cube of its width.
    """
    sizes: dict[int, int] = {}

    def reaches(multiple: int, end: int) -> bool:
        """Whether the first possible width from `multiple` to before `end` is large enough; false if none is."""
        possible = next((m for m in range(multiple, end) if size_at(m) is not None), None)
        if possible is None:
            return False
        sizes[possible] = size_at(possible) or 0
        return sizes[possible] >= target

    high = 1
    while high < WIDEST and not reaches(high, 2 * high):
        high *= 2
    low = high // 2  # too small, unless 0
    while high - low > 1:
        middle = (low + high) // 2
        if reaches(middle, high):
            high = middle
        else:
            low = middle
    return sizes


def _with_width(experiment: Experiment, features: int) -> Experiment:
    return dataclasses.replace(experiment, network=dataclasses.replace(experiment.network, features=features))


def _parameters(network: ActorCritic) -> int:
    return count(nnx.state(network, nnx.Param))


def _state_bytes(network: ActorCritic) -> int:
    return size_in_bytes(jax.eval_shape(lambda: network.initial_state(1)))


def _number(text: str, match: str) -> float:
    found = re.fullmatch(r"([\d_.]+)\s*([a-z]*)", text.strip().lower())
    try:
        assert found is not None
        number = float(found[1]) * UNITS[found[2]]
    except (AssertionError, KeyError, ValueError):
        raise MemrlError(f"match is {match!r}, expected a number such as 500k, 1.2M or 64KiB") from None
    check(number > 0, f"match is {match!r}, expected a number above 0")
    return number
