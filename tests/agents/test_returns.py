"""Generalised advantages: numbers worked out by hand, identities, and a plain loop."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memrl.agents.returns import generalised_advantages

NO, YES = False, True
jitted = jax.jit(generalised_advantages)


def advantages(reward, value, terminated, truncated, final_value, last_value, discount, trace):
    """Advantages and value targets as NumPy, from lists."""
    floats = [np.float32(x) for x in (reward, value)]
    flags = [np.array(x, bool) for x in (terminated, truncated)]
    rest = [np.float32(x) for x in (final_value, last_value, discount, trace)]
    return jax.tree.map(np.asarray, jitted(*floats, *flags, *rest))


# Reward 1, values 10, 20, 30, and 40 after the last step; gamma = lambda = 0.5, so that gamma * lambda = 1/4.
# Without ends delta = (1 + 10 - 10, 1 + 15 - 20, 1 + 20 - 30) = (1, -4, -9).
LITERAL = {
    "no end": ([NO, NO, NO], [NO, NO, NO], [1 - 6.25 / 4, -4 - 9 / 4, -9]),
    "terminated: nothing follows": ([NO, YES, NO], [NO, NO, NO], [1 - 19 / 4, 1 - 20, -9]),
    "truncated: the final value, 100, follows": ([NO, NO, NO], [NO, YES, NO], [1 + 31 / 4, 1 + 50 - 20, -9]),
    "both: it terminated": ([NO, YES, NO], [NO, YES, NO], [1 - 19 / 4, 1 - 20, -9]),
    "terminated at the last step": ([NO, NO, YES], [NO, NO, NO], [1 - 11.25 / 4, -4 - 29 / 4, 1 - 30]),
    "truncated at the last step": ([NO, NO, NO], [NO, NO, YES], [1 + 1.25 / 4, -4 + 21 / 4, 1 + 50 - 30]),
    "every step ends": ([YES, NO, YES], [NO, YES, NO], [1 - 10, 1 + 50 - 20, 1 - 30]),
}


@pytest.mark.parametrize("case", LITERAL)
def test_literal(case):
    terminated, truncated, expected = LITERAL[case]
    result = advantages([1, 1, 1], [10, 20, 30], terminated, truncated, [100] * 3, 40, 0.5, 0.5)
    np.testing.assert_array_equal(result.advantage, expected)
    np.testing.assert_array_equal(result.value_target, np.add(expected, [10, 20, 30]))


def naive(reward, value, terminated, truncated, final_value, last_value, discount, trace):
    """The definition: A_t is the sum of (discount trace)^k delta_{t+k} up to the end of the episode."""
    T = len(reward)
    delta = np.zeros(T)
    for t in range(T):
        follows = value[t + 1] if t + 1 < T else last_value
        if terminated[t]:
            follows = 0.0
        elif truncated[t]:
            follows = final_value[t]
        delta[t] = reward[t] + discount * follows - value[t]
    advantage = np.zeros(T)
    for t in range(T):
        for k in range(T - t):
            advantage[t] += (discount * trace) ** k * delta[t + k]
            if terminated[t + k] or truncated[t + k]:
                break
    return advantage


@st.composite
def sequences(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    T = draw(st.sampled_from([1, 2, 13]))  # each length compiles once
    how_often = draw(st.sampled_from([0.0, 0.2, 0.6, 1.0]))
    terminated, truncated = rng.random((2, T)) < how_often
    reward, value, final_value = rng.normal(size=(3, T))
    discount, trace = draw(st.sampled_from([(0.99, 0.95), (1.0, 1.0), (0.9, 0.0), (0.0, 0.5), (0.5, 1.0)]))
    return reward, value, terminated, truncated, final_value, rng.normal(), discount, trace


@settings(max_examples=60, deadline=None)
@given(sequences())
def test_equals_the_definition(sequence):
    result = advantages(*sequence)
    expected = naive(*sequence)
    # float32 sums of at most 13 terms of order one
    np.testing.assert_allclose(result.advantage, expected, atol=1e-5)
    np.testing.assert_allclose(result.value_target, expected + sequence[1], atol=1e-5)


def random_sequence(T=13):
    rng = np.random.default_rng(0)
    reward, value, final_value = rng.normal(size=(3, T))
    terminated, truncated = np.isin(np.arange(T), [3, 8]), np.isin(np.arange(T), [6])
    return reward, value, terminated, truncated, final_value, 0.7


def test_full_trace_is_the_discounted_return():
    reward, value, terminated, truncated, final_value, last_value = random_sequence()
    result = advantages(*random_sequence(), 0.9, 1.0)
    expected, follows = np.zeros(13), last_value
    for t in reversed(range(13)):
        follows = 0.0 if terminated[t] else final_value[t] if truncated[t] else follows
        follows = expected[t] = reward[t] + 0.9 * follows
    np.testing.assert_allclose(result.value_target, expected, atol=1e-5)
    np.testing.assert_allclose(result.advantage, expected - value, atol=1e-5)


def test_no_trace_is_the_error_of_one_step():
    reward, value, terminated, truncated, final_value, last_value = random_sequence()
    follows = np.where(truncated, final_value, np.append(value[1:], last_value)) * ~terminated
    result = advantages(*random_sequence(), 0.9, 0.0)
    np.testing.assert_allclose(result.value_target, reward + 0.9 * follows, atol=1e-6)


def test_episodes_in_a_row_equal_the_episodes_alone():
    """A trace cut a step late leaks from the next episode into this one."""
    reward, value, terminated, truncated, final_value, last_value = random_sequence()
    together = advantages(*random_sequence(), 0.9, 0.8).advantage
    # What follows an ended episode is never read; only the last one goes on.
    for start, end, last in [(0, 4, np.nan), (4, 7, np.nan), (7, 9, np.nan), (9, 13, last_value)]:
        part = slice(start, end)
        alone = advantages(
            reward[part], value[part], terminated[part], truncated[part], final_value[part], last, 0.9, 0.8
        )
        np.testing.assert_array_equal(together[part], alone.advantage)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_final_value_is_read_only_where_truncated(bad):
    reward, value, terminated, truncated, final_value, last_value = random_sequence()
    poisoned = np.where(truncated & ~terminated, final_value, bad)
    result = advantages(reward, value, terminated, truncated, poisoned, last_value, 0.9, 0.8)
    expected = advantages(*random_sequence(), 0.9, 0.8)
    jax.tree.map(np.testing.assert_array_equal, result, expected)


@pytest.mark.parametrize("wrong", range(6))
def test_wrong_shapes_are_refused(wrong):
    """Rather than broadcast."""
    arrays = [jnp.zeros(3), jnp.zeros(3), jnp.zeros(3, bool), jnp.zeros(3, bool), jnp.zeros(3), jnp.zeros(())]
    arrays[wrong] = arrays[wrong][None]
    with pytest.raises(AssertionError):
        jax.eval_shape(partial(generalised_advantages, discount=0.9, trace=0.9), *arrays)
