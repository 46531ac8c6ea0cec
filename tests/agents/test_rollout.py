"""Rollouts: replayed through the memory, recomputed step by step, split, batched over seeds, and cut up."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cores.core_references import ONE_OF_A_KIND
from jaxprs import equations
from probes import GRU, Erratic, Probe, Rewards, make_ppo
from quick import quick_jit

from memrl import CoreConfig, PPOConfig, core_config, list_cores
from memrl.agents.ppo import make_batch
from memrl.agents.returns import Advantages
from memrl.agents.rollout import any_of_all_seeds, to_sequences
from memrl.types import Trajectory, Transition

T, B, C = 12, 4, 4
CONFIG = PPOConfig(num_envs=B, num_steps=T, chunk_length=C, minibatches=1)
KEY = jax.random.key(3)


def decisive(state):
    """The state with a policy that depends on the memory: a fresh one is nearly uniform, whatever it sees."""
    kernel = state.params["policy"]["output"]["kernel"]
    kernel[...] = 100 * kernel[...]
    return state


@partial(quick_jit, static_argnames=("env", "core", "config"))
def play(env, core, config, env_params, key):
    """The train state and the results of two rollouts in a row, [2, ...]; the second starts amid episodes."""
    agent = make_ppo(env, config, core, params=env_params)
    state = decisive(agent.init(key))

    def again(rollout, key):
        rollout, trajectory, episodes = agent.collect(state._replace(rollout=rollout), key)
        return rollout, (rollout, trajectory, episodes)

    return state, jax.lax.scan(again, state.rollout, jax.random.split(key))[1]


def play_erratic(core: CoreConfig = GRU, config=CONFIG, key=KEY):
    return play(Erratic(), core, config, Erratic().default_params, key)


def second(tree):
    return jax.tree.map(lambda x: x[1], tree)


# ---- replay: importance ratios of one, for every core


@quick_jit
def replay(network, states, transitions):
    """Log-ratio and error of the value when transitions are replayed from `states`."""
    _, output = network.unroll(states, transitions.observation, transitions.reset)
    return output.policy.log_prob(transitions.action) - transitions.log_prob, output.value - transitions.value


@pytest.mark.parametrize(
    "core",
    [pytest.param(core, marks=[] if core in ONE_OF_A_KIND else [pytest.mark.slow]) for core in list_cores()],
)
def test_replay_equals_the_rollout(core):
    """Training from post-step memory states, or with resets a step off: ratios would not be one."""
    config = core_config(core)
    state, (_, trajectory, _) = play_erratic(config)
    trajectory = second(trajectory)
    transitions = trajectory.transitions
    network = make_ppo(Erratic(), CONFIG, config).network(state)
    whole = jax.tree.map(lambda x: x[0], trajectory.chunk_states)
    batch = make_batch(trajectory, Advantages(transitions.reward, transitions.reward), C)
    for states, replayed in ((whole, transitions), (batch.states, batch.transitions)):
        log_ratio, value_error = replay(network, states, replayed)
        # float32, and cores may compute a sequence in another order than its steps
        np.testing.assert_allclose(log_ratio, 0, atol=1e-4)
        np.testing.assert_allclose(value_error, 0, atol=1e-4)
    assert transitions.log_prob.std() > 0.1
    assert transitions.reset[1:].any()


# ---- a plain loop


def naive_collect(agent, state, rollout, key) -> Transition:
    """Every step of every environment on its own, leaves [T, B, ...]; `final_value` on every step."""
    network = agent.network(state)
    see_step = jax.jit(network.step)
    env_step = jax.jit(agent.env.step)
    rows = [[] for _ in range(T)]
    for b in range(B):
        one = jax.tree.map(lambda x, b=b: x[b], rollout)
        environment, observation, reset = one.environment, one.observation, one.reset
        memory = jax.tree.map(lambda x: x[None], one.memory)
        for t in range(T):
            action_key, env_key = (jax.random.fold_in(jax.random.fold_in(key, b), 2 * t + i) for i in (0, 1))
            memory, output = see_step(memory, observation[None], reset[None])
            action = output.policy[0].sample(seed=action_key)
            following, environment, reward, terminated, truncated, info = env_step(
                env_key, environment, action, agent.env_params
            )
            _, final = see_step(memory, info["final_observation"][None], jnp.zeros(1, bool))
            rows[t].append(
                Transition(
                    observation,
                    reset,
                    action,
                    output.policy[0].log_prob(action),
                    output.value[0],
                    reward,
                    terminated,
                    truncated,
                    final.value[0],
                )
            )
            observation, reset = following, terminated | truncated
    stacked = [jax.tree.map(lambda *xs: np.stack(xs), *row) for row in rows]
    return jax.tree.map(lambda *xs: np.stack(xs), *stacked)


def test_rollout_equals_a_loop_over_steps_and_environments():
    agent = make_ppo(Erratic(), CONFIG)
    state, (rollouts, trajectories, _) = play_erratic()
    first_rollout, trajectory = jax.tree.map(lambda x: x[0], rollouts), second(trajectories)
    naive = naive_collect(agent, state, first_rollout, jax.random.split(KEY)[1])
    both = naive.terminated & naive.truncated
    naive = naive._replace(truncated=naive.truncated & ~naive.terminated)
    ours = jax.tree.map(np.asarray, trajectory.transitions)
    for name in ("reset", "action", "terminated", "truncated"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(naive, name), name)
    for name in ("observation", "log_prob", "value", "reward"):
        # float32; a batch of one is multiplied in another order than a batch of four
        np.testing.assert_allclose(getattr(ours, name), getattr(naive, name), atol=1e-5, err_msg=name)
    np.testing.assert_allclose(ours.final_value, np.where(naive.truncated, naive.final_value, 0), atol=1e-5)
    goes_on = ~(naive.terminated | naive.truncated)[-1]
    np.testing.assert_allclose(np.asarray(trajectory.last_value)[goes_on], naive.final_value[-1][goes_on], atol=1e-5)
    # What this test is about did happen.
    assert both.any()
    assert goes_on.any()
    assert len(np.unique(naive.truncated.argmax(0))) > 1  # at different times
    assert naive.terminated.any()


def test_value_of_a_final_observation_uses_the_memory_of_that_moment():
    """Only first observations tell episodes apart; equal final observations must differ in value."""
    env, params = Probe(), Rewards(steps=3, cut=True)
    state, (_, trajectories, _) = play(env, GRU, CONFIG, params, KEY)
    transitions = jax.tree.map(lambda x: np.asarray(x[0]), trajectories.transitions)
    network = make_ppo(env, CONFIG, params=params).network(state)
    step = jax.jit(network.step)
    cues = transitions.observation[0, :, 1]
    for b in range(B):
        memory = network.initial_state(1)
        output = None
        for time in range(4):
            seen = jnp.array([[time, cues[b] if time == 0 else 0.0]])
            memory, output = step(memory, seen, jnp.zeros(1, bool))
        assert output is not None
        np.testing.assert_allclose(transitions.final_value[2, b], output.value[0], atol=1e-5)
    assert set(cues) == {-1, 1}
    assert abs(transitions.final_value[2][cues == 1].mean() - transitions.final_value[2][cues == -1].mean()) > 0.01
    np.testing.assert_array_equal(transitions.final_value[0], 0)


# ---- splitting and batching


def test_an_environment_does_not_depend_on_those_beside_it():
    state, (rollout, trajectory, _) = play_erratic()
    wide_state, (wide_rollout, wide_trajectory, _) = play_erratic(
        config=PPOConfig(num_envs=2 * B, num_steps=T, chunk_length=C, minibatches=1)
    )
    jax.tree.map(np.testing.assert_array_equal, state.params, wide_state.params)
    jax.tree.map(
        # float32; batches of other sizes are multiplied in another order
        lambda x, wide: np.testing.assert_allclose(x, wide[:, :, :B], atol=1e-5),
        (trajectory.transitions, trajectory.chunk_states),
        (wide_trajectory.transitions, wide_trajectory.chunk_states),
    )
    jax.tree.map(
        lambda x, wide: np.testing.assert_allclose(x, wide[:, :B], atol=1e-5),
        (rollout, trajectory.last_value),
        (wide_rollout, wide_trajectory.last_value),
    )


AGENT = make_ppo(Erratic(), CONFIG)


def test_seeds_side_by_side_equal_seeds_alone():
    """Seeds are cut at different times, so that each computes final values that only others need."""
    keys = jax.random.split(KEY, 3)
    states = quick_jit(jax.vmap(AGENT.init))(keys)
    together, alone = quick_jit(
        lambda: (
            jax.vmap(AGENT.collect)(states, keys),
            jax.lax.map(lambda inputs: AGENT.collect(*inputs), (states, keys)),
        )
    )()
    # float32; batched matrix products add up in another order
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), together, alone)
    truncated = np.asarray(together[1].transitions.truncated)
    assert len(np.unique(truncated.any(2).argmax(1))) > 1


def test_final_values_stay_a_branch_under_vmap():
    """A `cond` on each seed's own flags becomes a `select`: the network runs twice on every step."""
    keys = jax.random.split(KEY, 3)
    states = jax.eval_shape(jax.vmap(AGENT.init), keys)
    jaxpr = jax.make_jaxpr(jax.vmap(AGENT.collect))(states, keys).jaxpr
    assert [e.primitive.name for e in equations(jaxpr)].count("cond") == 1


def test_any_of_all_seeds():
    flags = jnp.array([[False, False], [False, True]])
    assert not any_of_all_seeds(flags[0])
    np.testing.assert_array_equal(jax.vmap(any_of_all_seeds)(flags), [True, True])
    np.testing.assert_array_equal(jax.vmap(any_of_all_seeds)(flags & False), [False, False])
    np.testing.assert_array_equal(jax.vmap(jax.vmap(any_of_all_seeds))(flags[None]), [[True, True]])


# ---- episodes


def test_episode_statistics():
    """Five steps that pay 1 each and 2 more at the end; episodes go on in the next rollout."""
    params = Rewards(steps=5, each=1.0, last=2.0)
    _, (rollout, _, episodes) = play(Probe(), GRU, CONFIG, params, KEY)
    np.testing.assert_array_equal(episodes.ended, [2 * B, 2 * B])  # 12 steps end at 4, 9; the next 12 at 2, 7
    np.testing.assert_array_equal(episodes.mean_return, [7, 7])
    np.testing.assert_array_equal(episodes.mean_length, [5, 5])
    np.testing.assert_array_equal(rollout.episode_length, [[2] * B, [4] * B])
    np.testing.assert_array_equal(rollout.episode_return, [[2] * B, [4] * B])


def test_episode_statistics_where_none_ended():
    _, (_, _, episodes) = play(Probe(), GRU, CONFIG, Rewards(steps=100, each=1.0), KEY)
    np.testing.assert_array_equal(episodes.ended, [0, 0])
    assert np.isnan(episodes.mean_return).all()
    assert np.isnan(episodes.mean_length).all()


# ---- sequences


def test_sequences_are_contiguous():
    """A wrong reshape mixes times or environments within a sequence."""
    x = jnp.array([[10 * time + env for env in range(2)] for time in range(6)])
    np.testing.assert_array_equal(to_sequences(x, 6), x)
    np.testing.assert_array_equal(to_sequences(x, 3), [[0, 30, 1, 31], [10, 40, 11, 41], [20, 50, 21, 51]])
    np.testing.assert_array_equal(to_sequences(x, 1), [[0, 10, 20, 30, 40, 50, 1, 11, 21, 31, 41, 51]])
    pixels = jnp.stack([x, -x], -1)
    np.testing.assert_array_equal(to_sequences(pixels, 3)[..., 1], -to_sequences(x, 3))


def test_each_sequence_comes_with_its_state():
    x = jnp.array([[10 * time + env for env in range(2)] for time in range(6)])
    transitions = Transition(*[x] * 9)
    trajectory = Trajectory(transitions, {"h": jnp.stack([x[::3], -x[::3]], -1)}, x[0])
    batch = make_batch(trajectory, Advantages(x, x), 3)
    np.testing.assert_array_equal(batch.transitions.observation, to_sequences(x, 3))
    np.testing.assert_array_equal(batch.advantages.advantage, to_sequences(x, 3))
    np.testing.assert_array_equal(batch.states["h"], [[0, 0], [30, -30], [1, -1], [31, -31]])
