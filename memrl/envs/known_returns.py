"""What random actions earn in an environment, and the best ones: the 0 and the 1 of normalised scores."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class KnownReturns(NamedTuple):
    """Expected returns of an episode with the default options."""

    random: float  # of uniformly random actions
    best: float  # that no policy exceeds
    reached: bool = True  # by some policy; otherwise `best` is a bound that chance keeps all policies below


def known_returns(name: str, options: Mapping[str, Any]) -> KnownReturns | None:
    """The returns of the environment called `name`, None where they are not known, as with options of one's own."""
    return None if options else KNOWN_RETURNS.get(name)


def _by_difficulty(family: str, *returns: KnownReturns) -> dict[str, KnownReturns]:
    """The returns of Easy, Medium and Hard; a single one is all of theirs."""
    triple = returns * 3 if len(returns) == 1 else returns
    names = (f"popgym/{family}{difficulty}" for difficulty in ("Easy", "Medium", "Hard"))
    return dict(zip(names, triple, strict=True))


def _bounded(best: float, *randoms: float) -> list[KnownReturns]:
    return [KnownReturns(random, best, reached=False) for random in randoms]


# Best returns follow from the tasks' definitions. Random ones do where they are simple fractions; the others, and the
# best of HigherLower, who counts the cards, are means over 8,192 to 65,536 episodes, measured by
# benchmarks/random_returns.py, which rounding to three digits does not exceed.
KNOWN_RETURNS: Mapping[str, KnownReturns] = {
    "memory/TMaze": KnownReturns(-0.967, 1.0),
    "memory/TMazeActive": KnownReturns(-0.974, 1.0),
    "memory/KeyToDoor": KnownReturns(0.24, 2.0),  # 1/5 of ten apples, and 1/5 * 1/5 of the door
    "memory/Parity": KnownReturns(0.5, 1.0),
    "memory/DelayedMatch": KnownReturns(0.5, 1.0),
    "memory/AssociativeRecall": KnownReturns(1 / 8, 1.0),
    "memory/Passkey": KnownReturns(0.1, 1.0),
    "memory/SetDisjointness": KnownReturns(0.5, 1.0),
    "memory/Copy": KnownReturns(1 / 8, 1.0),
    "memory/MemoryLength": KnownReturns(0.0, 1.0),
    "memory/MemorySize": KnownReturns(0.0, 1.0),
    "memory/EvidenceAccumulation": KnownReturns(0.495, 0.8770),
    "meta/CartPole": KnownReturns(1.78, 16.0, reached=False),
    # Who knew the arms would earn this much; they must be found out first.
    "meta/BernoulliBandit": KnownReturns(0.5, 10 / 11, reached=False),
    "meta/GaussianBandit": KnownReturns(0.0, 1.5388, reached=False),
    "meta/LinearBandit": KnownReturns(0.0, 1.5388, reached=False),
    "meta/DynamicalLinearBandit": KnownReturns(0.0, 4.4, reached=False),
    **_by_difficulty("Autoencode", KnownReturns(-0.5, 1.0)),
    **_by_difficulty("Battleship", *_bounded(1.0, -0.449, -0.416, -0.401)),
    **_by_difficulty("Concentration", *_bounded(1.0, -0.191, -0.186, -0.836)),
    **_by_difficulty("CountRecall", *(KnownReturns(2 / (n + 1) - 1, 1.0) for n in (26, 26, 16))),
    **_by_difficulty("HigherLower", *(KnownReturns(0.0, best) for best in (0.528, 0.516, 0.511))),
    **_by_difficulty("LabyrinthEscape", *_bounded(1.0, -0.417, -0.835, -0.953)),
    **_by_difficulty("LabyrinthExplore", *_bounded(1.0, -0.355, -0.612, -0.743)),
    **_by_difficulty("MineSweeper", *_bounded(1.0, -0.228, -0.401, -0.433)),
    **_by_difficulty(
        "MultiarmedBandit", *(KnownReturns(0.0, 2 * n / (n + 1) - 1, reached=False) for n in (10, 20, 30))
    ),
    **_by_difficulty("RepeatFirst", KnownReturns(-0.5, 1.0)),
    **_by_difficulty("RepeatPrevious", KnownReturns(-0.5, 1.0)),
    **_by_difficulty("PositionOnlyCartPole", *(KnownReturns(random, 1.0) for random in (0.112, 0.056, 0.037))),
    **_by_difficulty("VelocityOnlyCartPole", *(KnownReturns(random, 1.0) for random in (0.112, 0.056, 0.037))),
    **_by_difficulty("NoisyPositionOnlyCartPole", KnownReturns(0.112, 1.0, reached=False)),
    **_by_difficulty("PositionOnlyPendulum", *_bounded(1.0, 0.245, 0.243, 0.242)),
    **_by_difficulty("NoisyPositionOnlyPendulum", KnownReturns(0.245, 1.0, reached=False)),
}
