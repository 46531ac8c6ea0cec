"""POPGym's cart-poles and pendulums against POPGym itself: step by step, over whole episodes, and their noise."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from popgym_reference import DIFFICULTIES, Episode, assert_same, make_ours, make_reference
from quick import precise_jit

from memrl.envs.popgym.cartpole import CartPoleState
from memrl.envs.popgym.pendulum import MAX_TORQUE, PendulumState

CARTPOLES = ("PositionOnlyCartPole", "NoisyPositionOnlyCartPole", "VelocityOnlyCartPole")
PENDULUMS = ("PositionOnlyPendulum", "NoisyPositionOnlyPendulum")
VARIANTS = [f"{family}{difficulty}" for family in CARTPOLES + PENDULUMS for difficulty in DIFFICULTIES]
NOISY = [name for name in VARIANTS if name.startswith("Noisy")]


class Course(NamedTuple):
    """An episode of POPGym's."""

    first: np.ndarray  # observation of the reset
    states: np.ndarray  # [T + 1, N], before each step and after the last
    actions: np.ndarray  # [T, ...]
    episode: Episode


def without_noise(name, **options):
    reference = make_reference(name, **options)
    if "noise_sigma" in vars(reference):
        reference.noise_sigma = np.zeros(2)
    return reference


def run_theirs(reference, policy, seed=0) -> Course:
    first = reference.reset(seed=seed)[0]
    states, actions, steps = [np.array(reference.state)], [], []
    while not steps or not (steps[-1][2] or steps[-1][3]):
        actions.append(policy(states[-1]))
        steps.append(reference.step(actions[-1])[:4])
        states.append(np.array(reference.state))
    return Course(first, np.stack(states), np.array(actions), Episode(*map(np.array, zip(*steps, strict=True))))


def random_policy(reference, seed):
    rng = np.random.default_rng(seed)
    if hasattr(reference.action_space, "n"):
        return lambda _: int(rng.integers(2))
    # Beyond the limits too: both clip.
    return lambda _: rng.uniform(-1.2 * MAX_TORQUE, 1.2 * MAX_TORQUE, 1).astype(np.float32)


def balance(state) -> int:
    x, x_dot, theta, theta_dot = state
    return int(0.1 * x + 0.3 * x_dot + 3 * theta + theta_dot > 0)


def make_silent(name, **options):
    silent = {"noise_sigma": 0.0} if name.startswith("Noisy") else {}
    return make_ours(name, **silent, **options)


def hidden(values, time):
    make = CartPoleState if values.shape[-1] == 4 else PendulumState
    return make(*jnp.asarray(values.T, jnp.float32), time=jnp.asarray(time, jnp.int32))


def _step(env, params, state, action):
    """State and `Episode` of one step, no automatic reset."""
    observation, state, reward, terminated, _ = env.step_env(jax.random.key(0), state, action, params)
    return state, Episode(observation, reward, terminated, env.is_truncated(state, params))


STEP_MANY = precise_jit(jax.vmap(_step, in_axes=(None, None, 0, 0)), static_argnums=0)
RUN = precise_jit(
    lambda env, params, state, actions: jax.lax.scan(lambda s, a: _step(env, params, s, a), state, actions),
    static_argnums=0,
)


def values_of(state):
    return np.stack([value for name, value in vars(state).items() if name != "time"], -1)


@pytest.mark.parametrize("name", VARIANTS)
def test_step_by_step(name):
    """From each state that POPGym visits, ours takes the same step: at random, and to the limit."""
    reference = without_noise(name)
    policies = [random_policy(reference, seed) for seed in range(8)] + ([balance] if "CartPole" in name else [])
    courses = [run_theirs(reference, policy, seed) for seed, policy in enumerate(policies)]
    times = np.concatenate([np.arange(len(c.actions)) for c in courses])
    before, after = (np.concatenate([c.states[part] for c in courses]) for part in (slice(-1), slice(1, None)))
    actions = jnp.asarray(np.concatenate([c.actions for c in courses]))
    env, params = make_silent(name)
    state, ours = jax.tree.map(np.asarray, STEP_MANY(env, params, hidden(before, times), actions))
    theirs = Episode(*map(np.concatenate, zip(*(c.episode for c in courses), strict=True)))
    # float32 against float64, of angles of many turns, which the pendulum's reward takes into [-pi, pi]
    assert_same(ours, theirs, atol=1e-5, reward_atol=3e-8)
    np.testing.assert_allclose(values_of(state), after, rtol=1e-6, atol=5e-6)
    assert len(courses[-1].actions) == reference.max_episode_length
    assert courses[-1].episode.truncated[-1]
    assert not courses[-1].episode.terminated[-1]


@pytest.mark.parametrize("family", CARTPOLES + PENDULUMS)
def test_whole_episodes(family):
    """From a shared start alone, the random episode runs the same course to its end."""
    name = f"{family}Hard" if "Pendulum" in family else f"{family}Easy"
    reference, (env, params) = without_noise(name), make_silent(name)
    for seed in range(6):
        course = run_theirs(reference, random_policy(reference, seed), seed)
        start = hidden(course.states[0], 0)
        np.testing.assert_allclose(env.observe(jax.random.key(0), start, None, params), course.first, atol=1e-6)
        ours = jax.tree.map(np.asarray, RUN(env, params, start, jnp.asarray(course.actions))[1])
        np.testing.assert_array_equal(ours.terminated, course.episode.terminated)
        np.testing.assert_array_equal(ours.truncated, course.episode.truncated)
        np.testing.assert_allclose(ours.reward, course.episode.reward, atol=1e-4)
        np.testing.assert_allclose(ours.observation, course.episode.observation, atol=1e-3)


def test_a_cartpole_falls_on_its_last_step():
    """Pushed one way only, the pole falls; with the limit on that very step both flags are true."""
    fallen = len(run_theirs(make_reference("PositionOnlyCartPole"), lambda _: 1).actions)
    course = run_theirs(make_reference("PositionOnlyCartPole", max_episode_length=fallen), lambda _: 1)
    env, params = make_silent("PositionOnlyCartPoleEasy", max_steps_in_episode=fallen)
    ours = jax.tree.map(np.asarray, RUN(env, params, hidden(course.states[0], 0), jnp.asarray(course.actions))[1])
    np.testing.assert_array_equal(ours.terminated, course.episode.terminated)
    np.testing.assert_array_equal(ours.truncated, course.episode.truncated)
    assert ours.terminated[-1]
    assert ours.truncated[-1]


@pytest.mark.parametrize("family", ["PositionOnlyCartPole", "PositionOnlyPendulum"])
def test_starts_are_spread_alike(family):
    env, params = make_ours(f"{family}Easy")
    reference = make_reference(family)
    count = 4000
    keys = jax.random.split(jax.random.key(0), count)
    ours = values_of(precise_jit(jax.vmap(lambda key: env.reset_env(key, params)[1]))(keys))
    theirs = np.stack([(reference.reset(seed=seed), np.array(reference.state))[1] for seed in range(count)])
    for i in range(ours.shape[1]):
        assert largest_gap(ours[:, i], theirs[:, i]) < critical_gap(count)
    assert np.abs(np.corrcoef(ours.T) - np.eye(ours.shape[1])).max() < 4.5 / np.sqrt(count)


@pytest.mark.parametrize("name", NOISY)
def test_noise(name):
    """Same distribution on both coordinates, clipping included, at rest and close to the bound."""
    env, params = make_ours(name)
    reference = make_reference(name)
    reference.reset(seed=0)
    count = 4000
    places = [np.array([0.0, 0.0]), np.array([2.3, 0.2])] if "CartPole" in name else [np.array([0.1]), np.array([1.4])]
    for place in places:
        if "CartPole" in name:
            state = CartPoleState(*jnp.array([place[0], 0.0, place[1], 0.0]), time=jnp.int32(0))
        else:
            state = PendulumState(jnp.float32(place[0]), jnp.float32(0), jnp.int32(0))
            place = np.array([np.cos(place[0]), np.sin(place[0])])
        keys = jax.random.split(jax.random.key(1), count)
        ours = np.asarray(jax.vmap(lambda k, s=state: env.observe(k, s, None, params))(keys))  # pyright: ignore
        theirs = np.stack([reference.add_noise_to_obs(place) for _ in range(count)])
        assert ours.dtype == np.float32
        for i in range(2):
            assert largest_gap(ours[:, i], theirs[:, i]) < critical_gap(count)
        assert abs(np.corrcoef(ours.T)[0, 1]) < 4 / np.sqrt(count)


def largest_gap(one, two) -> float:
    """The largest distance between two empirical distribution functions."""
    one, two = (np.sort(x.astype(np.float32)) for x in (one, two))  # one type: where both clip they are equal
    points = np.concatenate([one, two])
    shares = [np.searchsorted(x, points, side="right") / len(x) for x in (one, two)]
    return float(np.abs(shares[0] - shares[1]).max())


def critical_gap(count) -> float:
    """Of two samples of this size from one distribution, exceeded once in a thousand times (Kolmogorov-Smirnov)."""
    return 1.95 * np.sqrt(2 / count)


def test_noise_is_fresh():
    """On every step, and of the start."""
    env, params = make_ours("NoisyPositionOnlyCartPoleHard")
    count = 2000
    keys, step_keys = jax.random.split(jax.random.key(0), (2, count))
    first, state = precise_jit(jax.vmap(lambda k: env.reset(k, params)))(keys)
    second = precise_jit(jax.vmap(lambda k, s: env.step(k, s, jnp.int32(0), params)[0]))(step_keys, state)
    start = np.stack([state.x, state.x_dot, state.theta, state.theta_dot])
    noise = np.concatenate([(first - start[::2].T).T, (second - start[::2].T).T])
    between = np.corrcoef(np.concatenate([noise, start])) - np.eye(8)
    assert np.abs(between).max() < 4.5 / np.sqrt(count)
