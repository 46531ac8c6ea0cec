"""N-parity, counted by a script, and by one that lost a bit."""

import numpy as np
import pytest
from memory_episodes import best_reactive_return, play, refusal

NAME = "memory/Parity"
ASK = 2


def counter(start=0):
    ones = start

    def policy(observation):
        nonlocal ones
        ones += observation == 1
        return ones % 2

    return policy


@pytest.mark.parametrize("length", [1, 2, 9])
def test_counting_earns_one(length):
    returns, lengths = play(NAME, counter, length=length)
    np.testing.assert_array_equal(returns, 1.0)
    np.testing.assert_array_equal(lengths, length + 1)


def test_the_wrong_parity_earns_nothing():
    returns, _ = play(NAME, lambda: counter(start=1), length=5)
    np.testing.assert_array_equal(returns, 0.0)


@pytest.mark.parametrize(("start", "expected"), [(0, 1.0), (1, 0.0)])
def test_every_step_may_be_judged(start, expected):
    returns, _ = play(NAME, lambda: counter(start), length=7, every_step=True)
    np.testing.assert_allclose(returns, expected, rtol=1e-6)


def test_one_wrong_step_of_five_costs_a_fifth():
    def policy_wrong_once():
        time, count = -1, counter()

        def policy(observation):
            nonlocal time
            time += 1
            return count(observation) ^ (time == 2)

        return policy

    returns, _ = play(NAME, policy_wrong_once, length=4, every_step=True)
    np.testing.assert_allclose(returns, 0.8, rtol=1e-6)


def test_without_memory_only_the_first_of_all_steps_is_sure():
    assert best_reactive_return(NAME, length=3, every_step=True) == pytest.approx(0.5 + 0.5 / 4, abs=0.03)


def test_the_question_comes_once_at_the_end():
    seen = []
    play(NAME, lambda: lambda observation: seen.append(int(observation)) or 0, batch=1, length=6)
    assert seen[-1] == ASK
    assert set(seen[:-1]) <= {0, 1}
    assert len(seen) == 7


def test_best_memoryless_return_is_one_half():
    assert best_reactive_return(NAME, length=3) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_every_bit_counts(lost):
    """Who misses one bit, be it the first or the last, can only guess."""

    def forgetful():
        time, count = -1, counter()

        def policy(observation):
            nonlocal time
            time += 1
            return count(0 if time == lost else observation)

        return policy

    returns, _ = play(NAME, forgetful, batch=400, length=3)
    assert np.mean(returns) == pytest.approx(0.5, abs=0.1)


def test_options_out_of_range_are_refused():
    assert refusal(NAME, length=0) == "length of Parity is 0, expected 1 to 2147483646"
