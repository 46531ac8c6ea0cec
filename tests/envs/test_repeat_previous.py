"""RepeatPrevious played from memory, and the deck behind it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quick import precise_jit

from memrl.envs import make_env
from memrl.envs.popgym.deck import draw, full_deck


@pytest.fixture(scope="module")
def easy():
    """Plays one episode: a jitted function of key and actions [51], giving cards [52] and rewards [51]."""
    env, params = make_env("popgym/RepeatPreviousEasy")

    @precise_jit
    def episode(key, actions):
        first, state = env.reset(key, params)

        def step(state, inputs):
            key, action = inputs
            _, state, reward, _, _, info = env.step(key, state, action, params)
            return state, (info["final_observation"], reward)

        keys = jax.random.split(jax.random.fold_in(key, 1), 51)
        _, (cards, rewards) = jax.lax.scan(step, state, (keys, actions))
        return jnp.append(first, cards), rewards

    return episode


def recall(cards, lag):
    """The action at each step: the card in sight `lag` steps before, 0 where there was none."""
    return np.concatenate([np.zeros(lag, int), cards])[:51]


def returns(easy, seed, lag) -> float:
    cards, _ = easy(jax.random.key(seed), jnp.zeros(51, int))  # the cards do not depend on the actions
    _, rewards = easy(jax.random.key(seed), jnp.asarray(recall(np.asarray(cards), lag)))
    return float(np.sum(np.asarray(rewards, np.float64)))


def test_remembering_k_minus_1_steps_earns_one(easy):
    for seed in range(5):
        assert returns(easy, seed, lag=3) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("lag", [0, 2, 4])
def test_another_lag_earns_what_a_guess_does(easy, lag):
    assert np.mean([returns(easy, seed, lag) for seed in range(40)]) == pytest.approx(-0.52, abs=0.08)


def test_first_steps_are_free_and_the_rest_weigh_the_same(easy):
    _, rewards = easy(jax.random.key(0), jnp.zeros(51, int))
    np.testing.assert_array_equal(rewards[:3], 0.0)
    np.testing.assert_allclose(np.abs(rewards[3:]), 1 / 48, rtol=1e-6)


def test_every_suit_is_shown_thirteen_times(easy):
    cards, _ = easy(jax.random.key(7), jnp.zeros(51, int))
    np.testing.assert_array_equal(np.bincount(cards), [13] * 4)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 5), min_size=4, max_size=4).filter(any), st.integers(0, 2**31 - 1))
def test_a_draw_takes_one_card_that_is_there(counts, seed):
    kind, left = DRAW(jax.random.key(seed), jnp.array(counts, jnp.int32))
    assert counts[kind] > 0
    assert np.array_equal(np.array(counts) - left, np.eye(4)[kind])


DRAW = precise_jit(draw)


def test_draws_are_in_proportion_to_what_is_left():
    count = 20_000
    counts = jnp.array([1, 0, 6, 3], jnp.int32)
    kinds, _ = precise_jit(jax.vmap(draw, in_axes=(0, None)))(jax.random.split(jax.random.key(0), count), counts)
    np.testing.assert_allclose(np.bincount(kinds, minlength=4) / count, [0.1, 0, 0.6, 0.3], atol=0.015)


def test_full_decks():
    np.testing.assert_array_equal(full_deck(4, 2), [26] * 4)
    np.testing.assert_array_equal(full_deck(13, 1), [4] * 13)
