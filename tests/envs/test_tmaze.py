"""The T-maze, played by scripts over whole episodes."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memrl.envs import make_env
from memrl.envs.memory.tmaze import CORRIDOR, DOWN, JUNCTION, LEFT, RIGHT, UP, TMaze, TMazeParams, TMazeState

LENGTH = 6


@jax.jit
def follow(actions, goal, params):
    """Observations [T+1, 4], rewards [T] and ends [T] of one episode that takes `actions` [T]."""
    env = TMaze()
    zero = jnp.zeros((), jnp.int32)
    state = TMazeState(position=zero, goal=goal, time=zero)

    def step(state, action):
        observation, state, reward, done, _ = env.step_env(jax.random.key(0), state, action, params)
        return state, (observation, reward, done)

    return jax.lax.scan(step, state, actions)[1]


def returns(actions, goal) -> float:
    _, rewards, dones = follow(jnp.array(actions), jnp.int32(goal), TMazeParams(length=len(actions) - 1))
    assert list(dones) == [False] * (len(actions) - 1) + [True]
    return float(np.sum(np.asarray(rewards, np.float64)))


def straight(turn):
    return [RIGHT] * LENGTH + [turn]


@pytest.mark.parametrize("goal", [UP, DOWN])
def test_optimal_return_is_exactly_one(goal):
    assert returns(straight(goal), goal) == 1.0


def test_best_memoryless_return_is_one_half():
    """Every deterministic map from observation to action, over both goals; mixing them gains nothing."""
    best = max(memoryless_return(policy) for policy in itertools.product(range(4), repeat=4))
    assert best == 0.5


def memoryless_return(policy) -> float:
    return np.mean([memoryless_episode(policy, goal) for goal in (UP, DOWN)]).item()


def memoryless_episode(policy, goal) -> float:
    """In corridor and junction a deterministic policy repeats itself, so its episode can be written down."""
    cue = 0 if goal == UP else 1
    actions, position = [], 0
    for time in range(LENGTH + 1):
        seen = cue if time == 0 else JUNCTION if position == LENGTH else CORRIDOR
        action = policy[seen]
        actions.append(action)
        position = min(max(position + (action == RIGHT) - (action == LEFT), 0), LENGTH)
    return returns(actions, goal)


@pytest.mark.parametrize("wrong", [DOWN, LEFT, RIGHT])
def test_wrong_turn_earns_nothing(wrong):
    assert returns(straight(wrong), UP) == 0.0


def test_standing_still_costs_one_in_all():
    assert returns([UP] * (LENGTH + 1), UP) == pytest.approx(-1.0)


def test_one_lost_step_is_paid_until_the_end():
    """Who is late at step 2 stays late, and the junction is out of reach of the last turn."""
    actions = [RIGHT, RIGHT, LEFT, *[RIGHT] * (LENGTH - 3), UP]
    assert returns(actions, UP) == pytest.approx(-(LENGTH - 2) / LENGTH)


def test_observations_show_place_only():
    observations, _, _ = follow(jnp.array(straight(UP)), jnp.int32(UP), TMazeParams(length=LENGTH))
    expected = np.eye(4)[[CORRIDOR] * (LENGTH - 1) + [JUNCTION] * 2]
    np.testing.assert_array_equal(observations, expected)


def test_cue_comes_first_and_never_again():
    env, params = make_env("memory/TMaze", length=LENGTH)
    first, state = jax.vmap(env.reset, in_axes=(0, None))(jax.random.split(jax.random.key(0), 400), params)
    np.testing.assert_array_equal(np.argmax(first, -1), np.where(np.asarray(state.goal) == UP, 0, 1))
    assert abs(np.mean(np.asarray(state.goal) == UP) - 0.5) < 0.1
    waiting, _, _ = follow(jnp.array([LEFT] * LENGTH + [UP]), jnp.int32(UP), TMazeParams(length=LENGTH))
    np.testing.assert_array_equal(np.argmax(waiting, -1), CORRIDOR)


def test_shortest_corridor():
    assert returns([RIGHT, DOWN], DOWN) == 1.0
    assert returns([DOWN, DOWN], DOWN) == -1.0


def test_length_is_a_traced_param():
    """Mazes of several lengths run side by side in one program."""
    env = TMaze()
    lengths = jnp.array([1, 2, 5])

    def horizon(length):
        params = TMazeParams(length=length)
        _, state = env.reset(jax.random.key(0), params)
        steps = jax.lax.scan(
            lambda s, _: env.step(jax.random.key(1), s, jnp.int32(RIGHT), params)[1:4:2], state, length=7
        )
        return jnp.argmax(steps[1]) + 1

    np.testing.assert_array_equal(jax.vmap(horizon)(lengths), lengths + 1)
