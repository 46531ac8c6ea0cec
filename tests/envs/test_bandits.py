"""Bandits: payoffs against the hidden arms, and what an agent that knows them earns."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import precise_jit

from memrl.envs import make_env
from memrl.errors import MemrlError

NAMES = ("BernoulliBandit", "GaussianBandit", "LinearBandit")
PULLS = 4000


def made(name, **options):
    return make_env(f"meta/{name}", **options)


@partial(precise_jit, static_argnames=("env", "choose", "num_steps"))
def episodes(env, params, keys, choose, num_steps):
    """State before, observation, reward and action of each step, [B, T, ...], where `choose(state)` chooses arms."""

    def episode(key):
        def step(state, key):
            action = choose(state)
            final, following, reward = env.step(key, state, action, params)[:3]
            return following, (state, final, reward, action)

        _, state = env.reset(key, params)
        return jax.lax.scan(step, state, jax.random.split(jax.random.fold_in(key, 1), num_steps))[1]

    return jax.vmap(episode)(keys)


def best_arm(state):
    return jnp.argmax(state.arms)


def best_context(state):
    return jnp.argmax(state.contexts @ state.weights)


def third_arm(state):
    return jnp.int32(2)


def pulled(name, arm, **options):
    """Hidden means [arms] and observations [PULLS, arms + 1] after that arm was pulled in one and the same state."""
    env, params = made(name, num_arms=4, **options)
    _, state = env.reset(jax.random.key(3), params)
    keys = jax.random.split(jax.random.key(4), PULLS)
    observation, _, reward, *_ = jax.vmap(env.step, (0, None, None, None))(keys, state, jnp.int32(arm), params)
    np.testing.assert_allclose(reward, observation[:, -1] / params.max_steps_in_episode, rtol=1e-6)
    np.testing.assert_array_equal(observation[:, :-1], np.tile(np.eye(4)[arm], (PULLS, 1)))
    return np.asarray(state.arms), np.asarray(observation[:, -1])


@pytest.mark.parametrize("arm", range(4))
def test_frequencies_agree_with_hidden_odds(arm):
    odds, payoffs = pulled("BernoulliBandit", arm)
    assert set(payoffs) == {0.0, 1.0}
    assert abs(payoffs.mean() - odds[arm]) < 4 * np.sqrt(0.25 / PULLS)
    assert np.ptp(odds) > 0.2


@pytest.mark.parametrize("arm", range(4))
def test_payoffs_are_normal_about_hidden_means(arm):
    means, payoffs = pulled("GaussianBandit", arm, noise_sigma=0.5)
    assert abs(payoffs.mean() - means[arm]) < 4 * 0.5 / np.sqrt(PULLS)
    assert payoffs.std() == pytest.approx(0.5, rel=0.06)
    assert np.ptp(means) > 0.5


def test_spread_of_the_means():
    env, params = made("GaussianBandit", mean_sigma=3.0)
    _, state = jax.vmap(env.reset, (0, None))(jax.random.split(jax.random.key(0), 400), params)
    assert np.std(state.arms) == pytest.approx(3.0, rel=0.06)


def expected_maximum_of_normals(n):
    """By simulation in NumPy, to 0.3 percent."""
    return np.random.default_rng(0).normal(size=(40_000, n)).max(1).mean()


@pytest.mark.parametrize(
    ("name", "choose", "expected"),
    [
        ("BernoulliBandit", best_arm, 5 / 6),
        ("GaussianBandit", best_arm, expected_maximum_of_normals(5)),
        ("LinearBandit", best_context, expected_maximum_of_normals(5)),
        ("BernoulliBandit", third_arm, 1 / 2),
        ("GaussianBandit", third_arm, 0.0),
        ("LinearBandit", third_arm, 0.0),
    ],
)
def test_expected_return_of_the_best_and_of_a_blind_choice(name, choose, expected):
    env, params = made(name, num_arms=5, max_steps_in_episode=10)
    keys = jax.random.split(jax.random.key(1), 2000)
    returns = np.asarray(episodes(env, params, keys, choose, 10)[2]).sum(1)
    assert abs(returns.mean() - expected) < 4 * returns.std() / np.sqrt(2000)


@pytest.mark.parametrize("name", NAMES)
def test_the_task_changes_with_the_episode_only(name):
    env, params = made(name, max_steps_in_episode=5)
    states = episodes(env, params, jax.random.split(jax.random.key(0), 3), third_arm, 20)[0]
    hidden = np.asarray(states.weights if name == "LinearBandit" else states.arms)
    changed = (hidden[:, 1:] != hidden[:, :-1]).all(-1)
    np.testing.assert_array_equal(changed, np.tile(np.arange(1, 20) % 5 == 0, (3, 1)))
    assert len(np.unique(hidden[..., 0])) == 12  # also between environments


def test_linear_payoffs_follow_from_the_contexts_on_show():
    """The weights, recovered from observations alone, are the hidden ones."""
    env, params = made("LinearBandit", num_arms=3, features=4, noise_sigma=0.0, max_steps_in_episode=50)
    key = jax.random.key(2)
    first, start = env.reset(key, params)
    observation, state = first, start
    rows, payoffs = [], []
    step = precise_jit(env.step)
    for t in range(10):
        arm = t % 3
        rows.append(np.asarray(observation[:12]).reshape(3, 4)[arm])
        observation, state, *_ = step(jax.random.fold_in(key, t), state, jnp.int32(arm), params)
        np.testing.assert_array_equal(observation[12:15], np.eye(3)[arm])
        payoffs.append(float(observation[15]))
    weights, residual, *_ = np.linalg.lstsq(np.array(rows), np.array(payoffs), rcond=None)
    assert residual < 1e-8
    np.testing.assert_allclose(weights, start.weights, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(start.weights), 1.0, rtol=1e-6)
    assert not np.any(first[12:])


def test_noise_of_linear_payoffs():
    env, params = made("LinearBandit", noise_sigma=0.3)
    _, state = env.reset(jax.random.key(0), params)
    keys = jax.random.split(jax.random.key(1), PULLS)
    observation = jax.vmap(env.step, (0, None, None, None))(keys, state, jnp.int32(1), params)[0]
    assert np.std(observation[:, -1]) == pytest.approx(0.3, rel=0.06)
    assert np.std(observation[:, 0]) == pytest.approx(1.0, rel=0.06)  # of the next context
    assert abs(np.corrcoef(observation[:, 0], observation[:, -1])[0, 1]) < 0.07


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        *((name, "num_arms", 0) for name in NAMES),
        *((name, "max_steps_in_episode", 0) for name in NAMES),
        ("GaussianBandit", "mean_sigma", -1.0),
        ("GaussianBandit", "noise_sigma", float("inf")),
        ("LinearBandit", "noise_sigma", float("nan")),
        ("LinearBandit", "features", 0),
    ],
)
def test_refusals(name, option, value):
    with pytest.raises(MemrlError, match=f"^{option} of {name} is {value}, expected .*at least"):
        made(name, **{option: value})
