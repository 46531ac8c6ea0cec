"""Whole episodes of POPGym's own environments, and of ours, in the same form."""

import importlib
import re
import warnings
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from quick import precise_jit

from memrl.envs import make_env

MODULES = {
    "Autoencode": "autoencode",
    "Battleship": "battleship",
    "Concentration": "concentration",
    "CountRecall": "count_recall",
    "HigherLower": "higher_lower",
    "LabyrinthEscape": "labyrinth_escape",
    "LabyrinthExplore": "labyrinth_explore",
    "MineSweeper": "minesweeper",
    "MultiarmedBandit": "multiarmed_bandit",
    "NoisyPositionOnlyCartPole": "noisy_position_only_cartpole",
    "NoisyPositionOnlyPendulum": "noisy_position_only_pendulum",
    "PositionOnlyCartPole": "position_only_cartpole",
    "PositionOnlyPendulum": "position_only_pendulum",
    "RepeatFirst": "repeat_first",
    "RepeatPrevious": "repeat_previous",
    "VelocityOnlyCartPole": "velocity_only_cartpole",
}
DIFFICULTIES = ("Easy", "Medium", "Hard")


def make_ours(name: str, **options: Any) -> tuple[Any, Any]:
    """Our environment of POPGym's name, and its params."""
    return make_env(f"popgym/{name}", **options)


def make_reference(name: str, **options: Any) -> Any:
    """POPGym's environment of that name, a family's or one of its difficulties'."""
    family = re.sub("(Easy|Medium|Hard)$", "", name)
    module = importlib.import_module(f"popgym.envs.{MODULES[family]}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # POPGym advises against its labyrinths
        return getattr(module, name)(**options)


class Episode(NamedTuple):
    """What T steps returned."""

    observation: Any  # [T, ...]
    reward: Any  # [T]
    terminated: Any  # [T] bool
    truncated: Any  # [T] bool


class Played(NamedTuple):
    """One whole episode of ours under random actions."""

    first: Any  # observation of the reset
    start: Any  # hidden state then
    actions: Any  # [T]
    episode: Episode
    end: Any  # hidden state after it


def assert_same(ours: Episode, theirs: Episode, atol: float = 1e-6, reward_atol: float = 1e-9) -> None:
    np.testing.assert_array_equal(ours.terminated, theirs.terminated)
    np.testing.assert_array_equal(ours.truncated, theirs.truncated)
    np.testing.assert_allclose(ours.reward, theirs.reward, rtol=1e-6, atol=reward_atol)
    np.testing.assert_allclose(ours.observation, theirs.observation, rtol=0, atol=atol)


def play_ours(env, params, episodes: int, seed: int = 0) -> list[Played]:
    """Whole episodes under random actions, without the automatic reset."""
    keys = jax.random.split(jax.random.key(seed), episodes)
    limit = int(params.max_steps_in_episode)
    first, start, (actions, steps, states) = jax.tree.map(np.asarray, _play(env, limit, params, keys))
    first, steps = as_array(first), steps._replace(observation=as_array(steps.observation))
    played = []
    for e in range(episodes):
        ended = steps.terminated[e] | steps.truncated[e]
        assert ended.any()
        length = 1 + int(np.argmax(ended))
        episode = Episode(*(x[e, :length] for x in steps))
        start_e, end = (jax.tree.map(lambda x, i=i: x[i], s) for s, i in ((start, e), (states, (e, length - 1))))
        played.append(Played(first[e], start_e, actions[e, :length], episode, end))
    return played


def play_ours_with(env, params, choose, seed: int = 0) -> Played:
    """One whole episode in which `choose(observation, state)` picks the actions."""
    step = precise_jit(lambda key, state, action: _step(env, params, key, state, action))
    first, start = env.reset_env(jax.random.key(seed), params)
    observation, state, actions, steps = as_array(first), start, [], []
    while not steps or not (steps[-1].terminated or steps[-1].truncated):
        actions.append(np.int32(choose(np.asarray(observation), state)))
        state, result = step(jax.random.key(seed + 1 + len(steps)), state, actions[-1])
        steps.append(jax.tree.map(np.asarray, result._replace(observation=as_array(result.observation))))
        observation = steps[-1].observation
    start, end = jax.tree.map(np.asarray, (start, state))
    return Played(as_array(first), start, np.array(actions), Episode(*map(np.array, zip(*steps, strict=True))), end)


def as_array(observation):
    """The parts of a tuple side by side."""
    return np.stack(observation, -1) if isinstance(observation, tuple) else np.asarray(observation)


def _step(env, params, key, state, action):
    observation, state, reward, terminated, _ = env.step_env(key, state, action, params)
    return state, Episode(observation, reward, terminated, env.is_truncated(state, params))


@partial(precise_jit, static_argnums=(0, 1))
def _play(env, limit, params, keys):
    def step(state, key):
        step_key, action_key = jax.random.split(key)
        action = env.action_space(params).sample(action_key)
        state, result = _step(env, params, step_key, state, action)
        return state, (action, result, state)

    def play_one(key):
        reset_key, steps_key = jax.random.split(key)
        first, start = env.reset_env(reset_key, params)
        return first, start, jax.lax.scan(step, start, jax.random.split(steps_key, limit))[1]

    return jax.vmap(play_one)(keys)


def play_theirs(reference, actions) -> Episode:
    """The same actions on a reference that has been put into our hidden state."""
    steps = []
    for action in actions:
        assert not steps or not (steps[-1][2] or steps[-1][3]), "POPGym's episode ended before ours"
        observation, *rest = reference.step(action if action.ndim else action.item())[:4]
        steps.append((np.array(observation), *rest))
    return Episode(*map(np.array, zip(*steps, strict=True)))
