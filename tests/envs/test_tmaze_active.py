"""The active T-maze, played by scripts over whole episodes."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from memory_episodes import play, refusal
from quick import precise_jit

from memrl.envs.memory.tmaze import DOWN, LEFT, RIGHT, UP, TMazeActive, TMazeActiveParams

NAME = "memory/TMazeActive"
CUE_UP, CUE_DOWN, CORRIDOR, JUNCTION, UPPER_ARM, LOWER_ARM = range(6)
LENGTH = 4


@precise_jit
def follow(actions, goal, params):
    """Places seen [T] and rewards [T] of one episode that takes `actions` [T]."""
    env = TMazeActive()
    _, state = env.reset_env(jax.random.key(0), params)
    state = replace(state, goal=jnp.int32(goal))

    def step(state, action):
        observation, state, reward, done, _ = env.step_env(jax.random.key(0), state, action, params)
        return state, (jnp.argmax(observation), reward, done)

    return jax.lax.scan(step, state, actions)[1]


def places_and_return(actions, goal):
    params = TMazeActiveParams(length=len(actions) - 3)
    places, rewards, dones = follow(jnp.array(actions), goal, params)
    assert list(dones) == [False] * (len(actions) - 1) + [True]
    return list(np.asarray(places)), float(np.sum(np.asarray(rewards, np.float64)))


def test_looking_then_walking_then_turning():
    actions = [LEFT, *[RIGHT] * (LENGTH + 1), DOWN]
    seen = [CUE_DOWN, *[CORRIDOR] * LENGTH, JUNCTION, LOWER_ARM]
    assert places_and_return(actions, -1) == (seen, 1.0)
    assert places_and_return(actions, 1) == ([CUE_UP, *seen[1:]], 0.0)


@pytest.mark.parametrize("length", [1, 2, 7])
def test_optimal_return_is_exactly_one(length):
    def looker():
        turn, time = None, -1

        def policy(observation):
            nonlocal turn, time
            time += 1
            place = np.argmax(observation)
            turn = {CUE_UP: UP, CUE_DOWN: DOWN}.get(int(place), turn)
            return LEFT if time == 0 else turn if place == JUNCTION else RIGHT

        return policy

    returns, lengths = play(NAME, looker, length=length)
    np.testing.assert_array_equal(returns, 1.0)
    np.testing.assert_array_equal(lengths, length + 3)


def test_walking_straight_is_free_and_the_arm_can_be_left_again():
    straight = [RIGHT] * LENGTH
    assert places_and_return([*straight, UP, DOWN, DOWN], -1) == (
        [CORRIDOR] * (LENGTH - 1) + [JUNCTION, UPPER_ARM, JUNCTION, LOWER_ARM],
        1.0,
    )
    walled = [CORRIDOR] * (LENGTH - 1) + [JUNCTION, UPPER_ARM, UPPER_ARM, JUNCTION]
    assert places_and_return([*straight, UP, LEFT, DOWN], 1) == (walled, 0.0)
    assert places_and_return([*straight, UP, UP, DOWN], 1)[1] == 0.0


def test_the_cue_shows_on_the_first_visit_only():
    places, _ = places_and_return([LEFT, LEFT, RIGHT, LEFT, *[RIGHT] * (LENGTH - 1)], 1)
    assert places == [CUE_UP] + [CORRIDOR] * (LENGTH + 2)


def test_loitering_costs_from_the_third_step():
    """At the start, x = 1, steps 3 to length+2 end at x < t - 1; the last step costs nothing."""
    assert places_and_return([UP] * (LENGTH + 3), 1)[1] == pytest.approx(-1.0)
    assert places_and_return([LEFT] * (LENGTH + 3), 1)[1] == pytest.approx(-(LENGTH + 1) / LENGTH)
    late = [LEFT, LEFT, *[RIGHT] * (LENGTH + 1)]
    assert places_and_return(late, 1)[1] == pytest.approx(-(LENGTH + 1) / LENGTH)


def test_best_memoryless_return_is_one_half():
    """Every deterministic map from observation to action, over both goals."""
    params = TMazeActiveParams(length=2)
    env = TMazeActive()

    @precise_jit
    def episode(policy, goal):
        observation, state = env.reset_env(jax.random.key(0), params)
        state = replace(state, goal=goal)

        def step(carry, _):
            observation, state = carry
            action = jnp.sum(jnp.where(observation > 0, policy, 0))
            observation, state, reward, _, _ = env.step_env(jax.random.key(0), state, action, params)
            return (observation, state), reward

        return jnp.sum(jax.lax.scan(step, (observation, state), length=5)[1])

    policies = jnp.array(list(itertools.product(range(4), repeat=6)))
    per_goal = [jax.vmap(episode, in_axes=(0, None))(policies, jnp.int32(goal)) for goal in (1, -1)]
    assert float(jnp.max((per_goal[0] + per_goal[1]) / 2)) == 0.5


def test_goals_are_fair():
    first, state = jax.vmap(TMazeActive().reset)(jax.random.split(jax.random.key(0), 400))
    np.testing.assert_array_equal(np.argmax(first, -1), CORRIDOR)
    assert abs(np.mean(np.asarray(state.goal) == 1) - 0.5) < 0.1
    assert set(np.asarray(state.goal)) == {-1, 1}


def test_options_out_of_range_are_refused():
    assert refusal(NAME, length=0) == "length of TMazeActive is 0, expected 1 to 2147483644"
