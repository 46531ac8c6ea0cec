"""Disguises and trials over an environment that shows its clock, and the cart-pole made of both."""

import itertools
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from env_rollout import assert_in_space
from quick import precise_jit

from memrl.envs import make_env
from memrl.envs.base import Task
from memrl.envs.meta.cartpole import MetaCartPole, MetaCartPoleParams
from memrl.envs.meta.projection import RandomProjection, draw_disguise
from memrl.envs.meta.trials import Trials
from memrl.envs.popgym.cartpole import CartPoleParams, PositionOnlyCartPole
from memrl.envs.wrappers import PreviousStep
from memrl.errors import MemrlError
from memrl.spaces import Discrete

LENGTH, QUIT = 4, 2  # a Clock is truncated after so many steps, and terminated by this action
FEATURES = 7


class ClockState(NamedTuple):
    time: jax.Array
    task: jax.Array


class Clock(Task):
    """Shows the time, pays the action, and hides a task."""

    @property
    def default_params(self):
        return None

    def observation_space(self, params):
        return Discrete(LENGTH + 1)

    def action_space(self, params):
        return Discrete(3)

    def reset_env(self, key, params):
        zero = jnp.zeros((), jnp.int32)
        return zero, ClockState(zero, jax.random.uniform(key))

    def step_env(self, key, state, action, params):
        time = state.time + 1
        return time, ClockState(time, state.task), action.astype(jnp.float32), action == QUIT, {}

    def is_truncated(self, state, params):
        return state.time >= LENGTH


CLOCK = Clock()


class Trace(NamedTuple):
    """What `reset` gave, and leaves [T, ...] of the steps that follow."""

    first: Any
    first_state: Any
    observation: Any
    final: Any
    state: Any
    action: Any
    reward: Any
    terminated: Any
    truncated: Any


@partial(precise_jit, static_argnames=("env", "num_steps"))
def trace(env, key, num_steps):
    params = env.default_params
    first, first_state = env.reset(key, params)

    def step(state, key):
        action = env.action_space(params).sample(jax.random.fold_in(key, 0))
        obs, state, reward, terminated, truncated, info = env.step(key, state, action, params)
        return state, (obs, info["final_observation"], state, action, reward, terminated, truncated)

    return Trace(first, first_state, *jax.lax.scan(step, first_state, jax.random.split(key, num_steps))[1])


def played(env, seed=0, num_steps=80) -> Trace:
    return jax.tree.map(np.asarray, trace(env, jax.random.key(seed), num_steps))


def before(first, after):
    """What held before each step, from what held at the start and after each: [T, ...]."""
    return np.concatenate([first[None], after[:-1]])


@pytest.mark.parametrize("orthogonal", [False, True])
@pytest.mark.parametrize("features", [3, FEATURES])
def test_a_projection_holds_for_one_episode(features, orthogonal):
    """The clock is one-hot, so every observation is a column of the matrix."""
    env = RandomProjection(CLOCK, features, orthogonal=orthogonal)
    run = played(env)
    old = before(run.first_state.disguise.matrix, run.state.disguise.matrix)
    new = run.state.disguise.matrix
    done = run.terminated | run.truncated
    assert run.terminated.any()
    assert run.truncated.any()
    time = before(np.int32(0), run.state.env_state.time) + 1
    for t in range(len(done)):
        np.testing.assert_array_equal(run.final[t], old[t][:, time[t]])
        np.testing.assert_array_equal(run.observation[t], new[t][:, 0 if done[t] else time[t]])
        if done[t]:
            assert (old[t] != new[t]).all()
        else:
            np.testing.assert_array_equal(old[t], new[t])
    np.testing.assert_array_equal(run.first, run.first_state.disguise.matrix[:, 0])
    assert_in_space(env.observation_space(None), run.observation)


@pytest.mark.parametrize(("size", "features"), [(2, 4), (5, 3), (3, 3)])
def test_size_of_the_matrix(size, features):
    """Entries of variance 2 / max(size, features), orthogonal or not, without preferred direction."""
    keys = jax.random.split(jax.random.key(1), 2000)
    for orthogonal in (False, True):
        draw = jax.vmap(lambda key, o=orthogonal: draw_disguise(key, size, features, orthogonal=o).matrix)
        matrices = np.asarray(precise_jit(draw)(keys))
        assert matrices.shape == (2000, features, size)
        np.testing.assert_allclose((matrices**2).mean(0), 2 / max(size, features), rtol=0.2)
        np.testing.assert_allclose(matrices.mean(0), 0.0, atol=0.12)
    products = matrices @ matrices.swapaxes(1, 2) if features <= size else matrices.swapaxes(1, 2) @ matrices
    np.testing.assert_allclose(products, 2 * np.broadcast_to(np.eye(min(size, features)), products.shape), atol=1e-5)


def test_large_orthogonal_matrices_stay_orthogonal():
    matrix = np.asarray(draw_disguise(jax.random.key(0), 64, 64, orthogonal=True).matrix)
    np.testing.assert_allclose(matrix @ matrix.T, 2 * np.eye(64), atol=1e-5)


def test_permutations_hold_for_one_episode():
    """The reward says what was done."""
    run = played(RandomProjection(CLOCK, FEATURES, permute_actions=True), num_steps=200)
    old = before(run.first_state.disguise.permutation, run.state.disguise.permutation)
    done = run.terminated | run.truncated
    np.testing.assert_array_equal(run.reward, old[np.arange(200), run.action])
    np.testing.assert_array_equal(run.terminated, run.reward == QUIT)
    np.testing.assert_array_equal(old[1:][~done[:-1]], old[:-1][~done[:-1]])
    assert len(np.unique(old, axis=0)) == 6


def test_permutations_are_uniform():
    keys = jax.random.split(jax.random.key(2), 1200)
    permutations: Any = jax.vmap(lambda key: draw_disguise(key, 1, 1, num_actions=3).permutation)(keys)
    found, counts = np.unique(permutations, axis=0, return_counts=True)
    assert [tuple(p) for p in found] == sorted(itertools.permutations(range(3)))
    assert (abs(counts - 200) < 60).all()  # 4.6 standard deviations


def test_batch_members_have_their_own_disguise():
    env = RandomProjection(CLOCK, FEATURES)
    keys = jax.random.split(jax.random.key(5), 4)
    rows = jax.vmap(lambda key: trace(env, key, 30))(keys)
    assert len(np.unique(rows.first, axis=0)) == 4
    assert len(np.unique(rows.state.disguise.matrix[:, -1, 0, 0])) == 4  # also those drawn on the way
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[1], y), rows, trace(env, keys[1], 30))


@pytest.mark.parametrize("same_start", [True, False])
@pytest.mark.parametrize("trials", [1, 3])
def test_trials_follow_one_another(trials, same_start):
    """Against a loop that counts."""
    env = Trials(CLOCK, trials, same_start)
    run = played(env)
    time = trial = ends = 0
    kinds = set()
    for t, action in enumerate(run.action):
        time += 1
        quits, late = action == QUIT, time == LENGTH
        over = bool(quits or late)
        trial += over
        end = trial == trials
        assert (run.terminated[t], run.truncated[t]) == (end and quits, end and late)
        assert run.reward[t] == action
        assert run.observation["trial_start"][t] == over
        assert run.observation["observation"][t] == (0 if over else time)
        assert run.final["trial_start"][t] == (over and not end)
        assert run.final["observation"][t] == (0 if over and not end else time)
        kinds.add((bool(quits), bool(late), end))
        ends += end
        time, trial = 0 if over else time, trial % trials
    assert {(True, False, True), (False, True, True)} <= kinds
    assert trials == 1 or {(True, False, False), (False, True, False)} <= kinds
    assert run.first == {"observation": 0, "trial_start": 1.0}
    tasks = 1 + (ends if same_start else (run.observation["trial_start"] == 1).sum())
    assert len({float(run.first_state.env_state.task), *run.state.env_state.task.tolist()}) == tasks


def test_a_hidden_task_outlasts_its_trials():
    """The task changes where the episode ends and nowhere else."""
    run = played(Trials(CLOCK, 3))
    old = before(run.first_state.env_state.task, run.state.env_state.task)
    np.testing.assert_array_equal(run.state.env_state.task != old, run.terminated | run.truncated)


def test_a_disguise_outlasts_its_trials_in_either_order():
    inside = played(Trials(RandomProjection(CLOCK, FEATURES, permute_actions=True), 3))
    outside = played(RandomProjection(Trials(CLOCK, 3, same_start=False), FEATURES))
    for run, first, later in (
        (inside, inside.first_state.env_state.disguise, inside.state.env_state.disguise),
        (outside, outside.first_state.disguise, outside.state.disguise),
    ):
        changed = (before(first.matrix, later.matrix) != later.matrix).all((1, 2))
        np.testing.assert_array_equal(changed, run.terminated | run.truncated)
        assert 2 < changed.sum() < 40


def test_previous_steps_are_seen_across_trials():
    run = played(PreviousStep(Trials(CLOCK, 3), reward=True))
    done = run.terminated | run.truncated
    across = (run.observation["observation"]["trial_start"][:, 0] == 1) & ~done
    assert across.sum() > 10
    np.testing.assert_array_equal(run.observation["previous_action"][across], np.eye(3)[run.action[across]])
    np.testing.assert_array_equal(run.observation["previous_reward"][across, 0], run.reward[across])


@pytest.mark.parametrize("limit", [5, 200])
def test_meta_cartpole_is_disguise_and_trials_over_cartpole(limit):
    """Nothing is left to chance after the reset, so both must show the same until the episode ends."""
    meta, params = make_env("meta/CartPole", trials=3, max_steps_in_trial=limit, permute_actions=True)
    made = Trials(RandomProjection(PositionOnlyCartPole(), 4, permute_actions=True, orthogonal=True), 3)
    key = jax.random.key(0)
    first, state = meta.reset(key, params)
    state = state.replace(disguise=state.disguise._replace(permutation=jnp.array([1, 0], jnp.int32)))  # swapped
    _, made_state = made.reset(key, CartPoleParams(limit))
    inner = made_state.env_state._replace(env_state=state.cart, disguise=state.disguise)
    made_state = made_state._replace(env_state=inner, start=(first["observation"], inner))

    def step(states, action):
        obs, state, reward, terminated, truncated, info = meta.step(key, states[0], action, params)
        theirs, their_state, their_reward, their_end, their_limit, their_info = made.step(
            key, states[1], action, CartPoleParams(limit)
        )
        ours = obs, info["final_observation"], reward, terminated
        theirs = theirs, their_info["final_observation"], their_reward, their_end | their_limit
        return (state, their_state), (ours, theirs, truncated)

    actions = jax.random.randint(jax.random.key(1), (200,), 0, 2)
    ours, theirs, truncated = precise_jit(partial(jax.lax.scan, step))((state, made_state), actions)[1]
    end = int(np.argmax(ours[3]))
    assert end == 14 if limit == 5 else 20 < end < 200
    assert not truncated.any()
    same = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(lambda x, y: same(x[:end], y[:end]), ours, theirs)
    jax.tree.map(lambda x, y: same(x[end], y[end]), ours[1:], theirs[1:])
    assert ours[0]["trial_start"][: end + 1].sum() == 3
    assert float(ours[2][: end + 1].sum()) == pytest.approx((end + 1) / limit)


def test_meta_cartpole_as_published():
    env, params = make_env("meta/CartPole")
    assert (params.trials, params.max_steps_in_trial, params.max_steps_in_episode) == (16, 200, 3200)
    _, state = env.reset(jax.random.key(0), params)
    assert state.disguise.permutation is None
    np.testing.assert_allclose(state.disguise.matrix.T @ state.disguise.matrix, 2 * np.eye(2), atol=1e-5)


@pytest.mark.parametrize(
    ("wrapper", "message"),
    [
        (lambda: RandomProjection(CLOCK, 0), "features of RandomProjection is 0, expected at least 1"),
        (lambda: Trials(CLOCK, 0), "trials of Trials is 0, expected at least 1"),
        (
            lambda: RandomProjection(make_env("gymnax/Pendulum-v1")[0], 4, permute_actions=True),
            "expected a Discrete space",
        ),
        (lambda: MetaCartPole(features=0), "features of MetaCartPole is 0"),
        (lambda: make_env("meta/CartPole", trials=0), "trials of MetaCartPole is 0"),
        (lambda: make_env("meta/CartPole", max_steps_in_trial=0), "max_steps_in_trial of MetaCartPole is 0"),
        (lambda: make_env("meta/CartPole", trials=2**30, max_steps_in_trial=2), "expected 2147483647 at most"),
    ],
)
def test_refusals(wrapper, message):
    with pytest.raises(MemrlError, match=message) as caught:
        wrapper()
    assert "\n" not in str(caught.value)


def test_params_may_be_traced():
    """Cart-poles with different trials run side by side."""
    env = MetaCartPole()

    def length(trials):
        params = MetaCartPoleParams(trials=trials, max_steps_in_trial=2)
        _, state = env.reset(jax.random.key(0), params)
        action = jnp.int32(0)
        ends = jax.lax.scan(lambda s, _: env.step(jax.random.key(0), s, action, params)[1:4:2], state, length=9)[1]
        return jnp.argmax(ends) + 1

    np.testing.assert_array_equal(jax.vmap(length)(jnp.array([1, 2, 4])), [2, 4, 8])
