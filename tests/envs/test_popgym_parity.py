"""The nine POPGym tasks against POPGym itself: same hidden state, same actions, whole episodes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from env_rollout import quick_jit
from popgym.envs.noisy_position_only_cartpole import (
    NoisyPositionOnlyCartPole,
    NoisyPositionOnlyCartPoleEasy,
    NoisyPositionOnlyCartPoleHard,
    NoisyPositionOnlyCartPoleMedium,
)
from popgym.envs.position_only_cartpole import (
    PositionOnlyCartPole,
    PositionOnlyCartPoleEasy,
    PositionOnlyCartPoleHard,
    PositionOnlyCartPoleMedium,
)
from popgym.envs.repeat_previous import (
    RepeatPrevious,
    RepeatPreviousEasy,
    RepeatPreviousHard,
    RepeatPreviousMedium,
)

from memrl.envs import make_env
from memrl.envs.popgym.cartpole import CartPoleState
from memrl.spaces import Box, Discrete

CARTPOLES = {
    "PositionOnlyCartPoleEasy": PositionOnlyCartPoleEasy,
    "PositionOnlyCartPoleMedium": PositionOnlyCartPoleMedium,
    "PositionOnlyCartPoleHard": PositionOnlyCartPoleHard,
    "NoisyPositionOnlyCartPoleEasy": NoisyPositionOnlyCartPoleEasy,
    "NoisyPositionOnlyCartPoleMedium": NoisyPositionOnlyCartPoleMedium,
    "NoisyPositionOnlyCartPoleHard": NoisyPositionOnlyCartPoleHard,
}
REPEATS = {
    "RepeatPreviousEasy": RepeatPreviousEasy,
    "RepeatPreviousMedium": RepeatPreviousMedium,
    "RepeatPreviousHard": RepeatPreviousHard,
}


class Episode(NamedTuple):
    """What T steps returned, and the hidden state they led to."""

    observation: Any  # [T, ...]
    reward: Any  # [T]
    terminated: Any  # [T] bool
    truncated: Any  # [T] bool
    state: Any  # [T, 4] of the cart-pole; none of the cards, whose order decides all that is seen


def assert_same(ours: Episode, theirs: Episode, atol: float = 1e-6) -> None:
    np.testing.assert_array_equal(ours.terminated, theirs.terminated)
    np.testing.assert_array_equal(ours.truncated, theirs.truncated)
    np.testing.assert_allclose(ours.reward, theirs.reward, rtol=1e-6)
    np.testing.assert_allclose(ours.observation, theirs.observation, rtol=0, atol=atol)
    np.testing.assert_allclose(ours.state, theirs.state, rtol=1e-6, atol=atol)


@pytest.mark.parametrize("name", [*CARTPOLES, *REPEATS])
def test_spaces(name):
    env, params = make_env(f"popgym/{name}")
    reference = {**CARTPOLES, **REPEATS}[name]()
    pairs = (
        (env.observation_space(params), reference.observation_space),
        (env.action_space(params), reference.action_space),
    )
    for ours, theirs in pairs:
        if isinstance(ours, Discrete):
            assert ours.n == theirs.n
        else:
            assert isinstance(ours, Box)
            assert ours.shape == theirs.shape
            np.testing.assert_array_equal(ours.low, theirs.low)
            np.testing.assert_array_equal(ours.high, theirs.high)


# RepeatPrevious


@pytest.mark.parametrize(
    ("name", "options", "reference"),
    [(name, {}, make) for name, make in REPEATS.items()]
    + [
        (
            "RepeatPreviousEasy",
            {"k": k, "num_decks": n},
            lambda k=k, n=n: RepeatPrevious(n, k),
        )
        for k, n in ((1, 1), (51, 1))
    ],
)
def test_repeat_previous(name, options, reference):
    env, params = make_env(f"popgym/{name}", **options)
    steps = int(params.max_steps_in_episode)
    actions = jax.random.randint(jax.random.key(1), (6, steps), 0, 4)
    first, episodes = quick_jit(jax.vmap(lambda k, a: play_cards(env, params, k, a)))(
        jax.random.split(jax.random.key(0), 6), actions
    )
    for e in range(6):
        ours = Episode(*(np.asarray(x[e]) for x in episodes))
        suits = np.concatenate([first[e : e + 1], ours.observation])
        assert_same(ours, deal_to_popgym(reference(), suits, np.asarray(actions[e])))


def play_cards(env, params, key, actions):
    """First observation and `Episode` [T] of one episode, whose last observation is its last card."""
    observation, state = env.reset(key, params)

    def step(state, inputs):
        key, action = inputs
        _, state, reward, terminated, truncated, info = env.step(key, state, action, params)
        no_state = jnp.zeros(0)
        return state, Episode(info["final_observation"], reward, terminated, truncated, no_state)

    keys = jax.random.split(jax.random.fold_in(key, 1), len(actions))
    return observation, jax.lax.scan(step, state, (keys, actions))[1]


def deal_to_popgym(reference, suits, actions) -> Episode:
    """Plays `actions` on a deck that deals `suits` [cards] in this order."""
    reference.reset(seed=0)
    reference.deck.idx = deck_that_deals(suits)
    reference.deck.hands["player"] = [reference.deck.idx[-1]]
    steps = []
    for action in actions:
        assert not steps or not (steps[-1][2] or steps[-1][3])
        steps.append((*reference.step(int(action))[:4], np.zeros(0)))
    return Episode(*map(np.array, zip(*steps, strict=True)))


def deck_that_deals(suits):
    """Card numbers, the last dealt first: card i has suit i % 4, and every card appears once."""
    piles = [list(range(suit, len(suits), 4)) for suit in range(4)]
    cards = [piles[suit].pop() for suit in suits]
    assert not any(piles)
    return np.array(cards[::-1])


# CartPole


@pytest.mark.parametrize("name", CARTPOLES)
def test_cartpole_step_by_step(name):
    """From each state that POPGym visits, ours takes the same step: at random, and balancing to the limit."""
    reference = without_noise(CARTPOLES[name]())
    policies = [random_policy(seed) for seed in range(10)] + [balance]
    played = [play_cartpole(reference, policy, seed) for seed, policy in enumerate(policies)]
    assert_same(step_from(name, played), join([theirs for _, _, theirs in played]))
    _, actions, balanced = played[-1]
    assert len(actions) == reference.max_episode_length
    assert balanced.truncated[-1]
    assert not balanced.terminated[-1]


@pytest.mark.parametrize("name", ["PositionOnlyCartPoleEasy", "NoisyPositionOnlyCartPoleEasy"])
def test_cartpole_whole_episodes(name):
    """From a shared start alone, the random episode runs the same course to its end."""
    reference = without_noise(CARTPOLES[name]())
    for seed in range(10):
        before, actions, theirs = play_cartpole(reference, random_policy(seed), seed)
        assert_same(run_from(name, before[0], actions), theirs, atol=1e-4)


def test_cartpole_falls_on_its_last_step():
    """Pushed one way only, the pole falls; with the limit on that very step both flags are true."""
    fallen = len(play_cartpole(PositionOnlyCartPole(), lambda state: 1)[1])
    reference = PositionOnlyCartPole(max_episode_length=fallen)
    played = play_cartpole(reference, lambda state: 1)
    assert len(played[1]) == fallen
    ours = step_from("PositionOnlyCartPoleEasy", [played], max_steps_in_episode=fallen)
    assert_same(ours, played[2])
    assert ours.terminated[-1]
    assert ours.truncated[-1]


def without_noise(reference):
    if isinstance(reference, NoisyPositionOnlyCartPole):
        reference.noise_sigma = np.zeros(2)
    return reference


def random_policy(seed):
    rng = np.random.default_rng(seed)
    return lambda state: int(rng.integers(2))


def balance(state) -> int:
    x, x_dot, theta, theta_dot = state
    return int(0.1 * x + 0.3 * x_dot + 3 * theta + theta_dot > 0)


def play_cartpole(reference, policy, seed=0):
    """States before each step [T, 4], actions [T], and the `Episode`."""
    reference.reset(seed=seed)
    states, actions, steps = [], [], []
    while not steps or not (steps[-1][2] or steps[-1][3]):
        states.append(np.array(reference.state))
        actions.append(policy(states[-1]))
        result = reference.step(actions[-1])[:4]
        steps.append((*result, np.array(reference.state)))
    return np.stack(states), np.array(actions), Episode(*map(np.array, zip(*steps, strict=True)))


def make_silent(name, **options):
    silent = {"noise_sigma": 0.0} if name.startswith("Noisy") else {}
    return make_env(f"popgym/{name}", **silent, **options)


def step_from(name, played, **options) -> Episode:
    """One step from every state of `played`, of which the t-th in its episode is at time t."""
    env, params = make_silent(name, **options)
    states, actions, _ = zip(*played, strict=True)
    times = np.concatenate([np.arange(len(a)) for a in actions])
    before = CartPoleState(*jnp.asarray(np.concatenate(states), jnp.float32).T, time=jnp.asarray(times))
    return jax.tree.map(np.asarray, STEP_MANY(env, params, before, np.concatenate(actions))[1])


def join(episodes) -> Episode:
    return Episode(*map(np.concatenate, zip(*episodes, strict=True)))


def run_from(name, start, actions) -> Episode:
    """All of `actions` [T] from `start` [4]."""
    env, params = make_silent(name)
    state = CartPoleState(*jnp.asarray(start, jnp.float32), time=jnp.zeros((), jnp.int32))
    steps = []
    for action in actions:
        state, step = STEP_ONE(env, params, state, action)
        steps.append(step)
    return Episode(*map(np.array, zip(*steps, strict=True)))


def _step(env, params, state, action):
    """State and `Episode` of one step, no automatic reset."""
    observation, state, reward, terminated, _ = env.step_env(jax.random.key(0), state, action, params)
    physical = jnp.stack([state.x, state.x_dot, state.theta, state.theta_dot])
    return state, Episode(observation, reward, terminated, env.is_truncated(state, params), physical)


STEP_ONE = quick_jit(_step, static_argnums=0)
STEP_MANY = quick_jit(jax.vmap(_step, in_axes=(None, None, 0, 0)), static_argnums=0)


@pytest.mark.parametrize("name", [name for name in CARTPOLES if name.startswith("Noisy")])
def test_cartpole_noise(name):
    """Same distribution on both coordinates, clipping included, at rest and close to the bound."""
    env, params = make_env(f"popgym/{name}")
    reference = CARTPOLES[name]()
    reference.reset(seed=0)
    count = 4000
    critical = 1.95 * np.sqrt(2 / count)  # Kolmogorov-Smirnov, two samples, p = 0.001
    for place in (np.array([0.0, 0.0]), np.array([2.3, 0.2])):
        state = CartPoleState(*jnp.array([place[0], 0.0, place[1], 0.0]), time=jnp.int32(0))
        keys = jax.random.split(jax.random.key(1), count)
        ours = np.asarray(jax.vmap(lambda k, s=state: env.observe(k, s, None, params))(keys))  # pyright: ignore
        theirs = np.stack([reference.add_noise_to_obs(place) for _ in range(count)])
        assert ours.dtype == np.float32
        for i in range(2):
            assert largest_gap(ours[:, i], theirs[:, i]) < critical
        assert abs(np.corrcoef(ours.T)[0, 1]) < 4 / np.sqrt(count)


def largest_gap(one, two) -> float:
    """The largest distance between two empirical distribution functions."""
    one, two = (np.sort(x.astype(np.float32)) for x in (one, two))  # one type: where both clip they are equal
    points = np.concatenate([one, two])
    shares = [np.searchsorted(x, points, side="right") / len(x) for x in (one, two)]
    return float(np.abs(shares[0] - shares[1]).max())


def test_noise_is_fresh():
    """On every step, and of the start."""
    env, params = make_env("popgym/NoisyPositionOnlyCartPoleHard")
    count = 2000
    keys, step_keys = jax.random.split(jax.random.key(0), (2, count))
    first, state = quick_jit(jax.vmap(lambda k: env.reset(k, params)))(keys)
    second = quick_jit(jax.vmap(lambda k, s: env.step(k, s, jnp.int32(0), params)[0]))(step_keys, state)
    start = np.stack([state.x, state.x_dot, state.theta, state.theta_dot])
    noise = np.concatenate([(first - start[::2].T).T, (second - start[::2].T).T])
    between = np.corrcoef(np.concatenate([noise, start])) - np.eye(8)
    assert np.abs(between).max() < 4.5 / np.sqrt(count)
