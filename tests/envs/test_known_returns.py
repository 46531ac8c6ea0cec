"""The table of random and best returns, against its environments."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from memrl.envs import list_envs
from memrl.envs.known_returns import KNOWN_RETURNS, known_returns

# Not by the path: benchmarks/cores.py would be found in the place of tests/cores.
_spec = importlib.util.spec_from_file_location(
    "random_returns", Path(__file__).parents[2] / "benchmarks" / "random_returns.py"
)
assert _spec is not None
assert _spec.loader is not None
_script = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_script)
random_returns = _script.random_returns

DIGIT = 0.001  # the table is rounded, and was measured


def off(name: str, episodes: int, expected: float, **options: bool) -> float:
    """How many standard errors the mean of some episodes is away from a number, beyond its rounding."""
    returns = random_returns(name, episodes, seed=1234, **options)
    error = max(float(returns.std()) / np.sqrt(episodes), 1e-4)
    return max(abs(returns.mean() - expected) - 5 * DIGIT, 0.0) / error


def test_all_own_environments_are_in_the_table():
    own = [name for name in list_envs() if name.split("/")[0] in ("popgym", "memory", "meta")]
    assert sorted(KNOWN_RETURNS) == sorted(own)
    assert all(known.random < known.best for known in KNOWN_RETURNS.values())


def test_other_options_are_not_known():
    assert known_returns("memory/TMaze", {}) is not None
    assert known_returns("memory/TMaze", {"length": 50}) is None
    assert known_returns("gymnax/CartPole-v1", {}) is None


@pytest.mark.parametrize("name", ["memory/EvidenceAccumulation", "memory/KeyToDoor", "popgym/PositionOnlyCartPoleEasy"])
def test_random_returns(name: str):
    assert off(name, 4096, KNOWN_RETURNS[name].random) < 4


@pytest.mark.slow
@pytest.mark.parametrize("name", KNOWN_RETURNS)
def test_all_random_returns(name: str):
    assert off(name, 2048, KNOWN_RETURNS[name].random) < 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["popgym/HigherLowerEasy", "popgym/HigherLowerHard"])
def test_counting_cards(name: str):
    assert off(name, 4096, KNOWN_RETURNS[name].best, counting=True) < 4
