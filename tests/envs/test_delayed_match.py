"""Delayed match to sample, played by a script that holds the sample."""

import numpy as np
import pytest
from memory_episodes import best_reactive_return, play, refusal

NAME = "memory/DelayedMatch"
SAMPLE, DISTRACTOR, PROBE = range(3)


def rememberer(held=SAMPLE):
    """Compares the probe with the symbol seen last in the role `held`."""
    sample = None

    def policy(observation):
        nonlocal sample
        role, symbol = observation
        if role == held:
            sample = symbol
        return int(sample == symbol)

    return policy


@pytest.mark.parametrize(("length", "num_symbols"), [(0, 2), (1, 3), (6, 4)])
def test_holding_the_sample_earns_one(length, num_symbols):
    returns, lengths = play(NAME, rememberer, length=length, num_symbols=num_symbols)
    np.testing.assert_array_equal(returns, 1.0)
    np.testing.assert_array_equal(lengths, length + 2)


def test_distractors_do_not_help():
    returns, _ = play(NAME, lambda: rememberer(DISTRACTOR), batch=400, length=1, num_symbols=2)
    assert np.mean(returns) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("num_symbols", [2, 5])
def test_best_memoryless_return_is_one_half(num_symbols):
    """Red if matches are not half of the probes, or some probes match more often than others."""
    assert best_reactive_return(NAME, length=1, num_symbols=num_symbols) == pytest.approx(0.5, abs=0.03)


def test_roles_follow_each_other():
    roles = []
    play(NAME, lambda: lambda observation: roles.append(int(observation[0])) or 0, batch=1, length=3)
    assert roles == [SAMPLE, *[DISTRACTOR] * 3, PROBE]


def test_every_symbol_takes_every_role():
    seen = set()
    play(NAME, lambda: lambda o: seen.add((int(o[0]), int(o[1]))) or 0, batch=200, length=2, num_symbols=3)
    assert seen == {(role, symbol) for role in range(3) for symbol in range(3)}


def test_options_out_of_range_are_refused():
    assert refusal(NAME, length=-1) == "length of DelayedMatch is -1, expected 0 to 2147483645"
    assert refusal(NAME, num_symbols=1) == "num_symbols of DelayedMatch is 1, expected 2 to 1073741824"
