"""The dynamical linear bandit against its equations in NumPy."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import precise_jit

from memrl.envs import make_env
from memrl.errors import MemrlError

NAME = "meta/DynamicalLinearBandit"
QUIET: dict[str, Any] = {"state_noise": 0.0, "payoff_noise": 0.0}


def started(seed=0, **options):
    env, params = make_env(NAME, **options)
    _, state = env.reset(jax.random.key(seed), params)
    return env, params, state


def follow(env, params, state, arms, seed=1):
    """Final observations, rewards and states [T, ...] of pulling `arms` [T]."""

    def step(state, inputs):
        key, arm = inputs
        observation, state, reward, *_ = env.step_env(key, state, arm, params)
        return state, (observation, reward, state)

    keys = jax.random.split(jax.random.key(seed), len(arms))
    return precise_jit(lambda state: jax.lax.scan(step, state, (keys, jnp.array(arms))))(state)[1]


def payoffs_by_hand(system, arms):
    A, B, omega, theta = (np.asarray(x, np.float64) for x in system)
    x, payoffs = np.zeros(len(A)), []
    for arm in arms:
        u = np.eye(len(theta))[arm]
        payoffs.append(omega @ x + theta @ u)
        x = A @ x + B @ u
    return np.array(payoffs)


@pytest.mark.parametrize("state_size", [1, 2, 5])
def test_payoffs_equal_the_equations(state_size):
    env, params, state = started(num_arms=3, state_size=state_size, max_steps_in_episode=40, **QUIET)
    arms = np.random.default_rng(0).integers(3, size=40)
    observation, reward, _ = follow(env, params, state, arms)
    expected = payoffs_by_hand(state.system, arms)
    np.testing.assert_allclose(observation[:, -1], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(reward, expected / 40, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(observation[:, :-1], np.eye(3)[arms])
    np.testing.assert_allclose(observation[0, -1], state.system.theta[arms[0]], rtol=1e-6)  # it starts at rest


def test_noises_of_state_and_payoff():
    """What is left after the equations has the stated size and no more structure."""
    env, params, state = started(num_arms=2, state_size=2, state_noise=0.5, payoff_noise=0.2)
    system = jax.tree.map(np.asarray, state.system)
    arms = np.arange(4000) % 2
    observation, _, states = follow(env, params, state, arms)
    x = np.concatenate([np.zeros((1, 2)), states.x])
    eta = observation[:, -1] - x[:-1] @ system.omega - system.theta[arms]
    epsilon = x[1:] - x[:-1] @ system.A.T - system.B.T[arms]
    assert np.std(eta) == pytest.approx(0.2, rel=0.06)
    np.testing.assert_allclose(np.std(epsilon, axis=0), 0.5, rtol=0.06)
    correlations = np.corrcoef(np.column_stack([eta, epsilon, np.roll(eta, 1), np.roll(epsilon, 1, axis=0)]).T)
    assert abs(correlations - np.eye(6)).max() < 0.07


def test_every_system_is_stable():
    env, params = make_env(NAME, state_size=3, spectral_radius=0.7)
    _, state = jax.vmap(env.reset, (0, None))(jax.random.split(jax.random.key(0), 300), params)
    eigenvalues = np.linalg.eigvals(np.asarray(state.system.A, np.float64))
    np.testing.assert_allclose(eigenvalues.imag, 0.0, atol=1e-4)
    assert eigenvalues.real.min() > -1e-5
    assert 0.69 < eigenvalues.real.max() < 0.7 + 1e-5
    assert eigenvalues.real.mean() == pytest.approx(0.35, rel=0.06)
    off_diagonal = np.asarray(state.system.A)[:, 0, 1]
    assert off_diagonal.std() > 0.05  # a rotation has taken place
    assert (np.std(state.system.B, axis=0) > 0.8).all()
    assert np.std(state.system.theta) == pytest.approx(1.0, rel=0.06)
    assert np.std(state.system.omega) == pytest.approx(3**-0.5, rel=0.08)


def test_the_best_play_is_the_one_in_the_docstring():
    """Against every sequence of arms."""
    horizon = 5
    env, params, state = started(seed=11, num_arms=3, state_size=2, max_steps_in_episode=horizon, **QUIET)
    A, B, omega, theta = (np.asarray(x, np.float64) for x in state.system)
    lasting = [sum((np.linalg.matrix_power(A.T, s) for s in range(m)), np.zeros((2, 2))) for m in range(horizon)]
    values = [theta + B.T @ lasting[horizon - 1 - t] @ omega for t in range(horizon)]
    best = max(payoffs_by_hand(state.system, arms).mean() for arms in itertools.product(range(3), repeat=horizon))
    play = [int(np.argmax(v)) for v in values]
    assert len(set(play)) > 1  # else a greedy rule would do
    assert np.mean([v.max() for v in values]) == pytest.approx(best)
    assert float(follow(env, params, state, play)[1].sum()) == pytest.approx(best, rel=1e-4)


def test_a_system_per_episode_or_one_for_all():
    keys = jax.random.split(jax.random.key(0), 5)
    for options, count in (({}, 5), ({"system_seed": 0}, 1)):
        env, params = make_env(NAME, **options)
        _, state = jax.vmap(env.reset, (0, None))(keys, params)
        for leaf in jax.tree.leaves(state.system):
            assert len(np.unique(leaf, axis=0)) == count
    _, _, zero = started(system_seed=0)
    _, _, one = started(system_seed=1)
    assert (zero.system.B != one.system.B).all()


def test_a_fixed_system_does_not_depend_on_the_generator():
    env, params = make_env(NAME, system_seed=3)
    systems = [env.reset(jax.random.key(7, impl=impl), params)[1].system for impl in ("threefry2x32", "unsafe_rbg")]
    jax.tree.map(np.testing.assert_array_equal, *systems)


def test_the_system_stays_for_the_episode():
    env, params, state = started(max_steps_in_episode=3)

    def step(state, key):
        state = env.step(key, state, jnp.int32(0), params)[1]
        return state, state

    states = precise_jit(lambda s: jax.lax.scan(step, s, jax.random.split(jax.random.key(0), 8)))(state)[1]
    theta = np.concatenate([state.system.theta[None], states.system.theta])
    np.testing.assert_array_equal((theta[1:] != theta[:-1]).all(1), np.arange(1, 9) % 3 == 0)
    np.testing.assert_array_equal(states.x[2::3], 0.0)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("num_arms", 0),
        ("state_size", 0),
        ("system_seed", -2),
        ("max_steps_in_episode", 0),
        ("spectral_radius", 1.0),
        ("spectral_radius", -0.1),
        ("state_noise", -0.1),
        ("payoff_noise", float("nan")),
    ],
)
def test_refusals(option, value):
    with pytest.raises(MemrlError, match=f"^{option} of DynamicalLinearBandit is {value}, expected .*at least"):
        make_env(NAME, **{option: value})
