"""What is said of a memory is true of memories of which it is known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import memrl
from memrl.errors import MemrlError
from memrl.experiment import Experiment, assemble
from memrl.runner import SavedRun, insight
from memrl.runner.cues import cue_of
from memrl.runner.insight import (
    InsightOptions,
    attention_maps,
    look_inside,
    probe_cue,
    probe_observation,
    trace_episode,
)
from memrl.runner.program import initial_states

NETWORK = memrl.NetworkConfig(features=8, encoder_sizes=(), head_sizes=())
AGENT = memrl.PPOConfig(num_envs=2, num_steps=4, minibatches=1, epochs=1)
SAMPLED = InsightOptions(episodes=100, max_delay=7, greedy=False)


def untrained(env: str, *cores: memrl.CoreConfig, **fields) -> SavedRun:
    fields = {"network": NETWORK, "agent": AGENT, **fields}
    experiment = Experiment(env, core=cores[0] if len(cores) == 1 else cores, **fields)
    assembly = assemble(experiment)
    return SavedRun(experiment, assembly, 0, initial_states(assembly.agent, experiment))


def test_a_window_holds_what_is_in_it():
    saved = untrained("popgym/RepeatPreviousEasy", memrl.WindowAttentionConfig(window=4))
    found = probe_observation(saved, 0, SAMPLED)
    assert (found.target, found.measure, found.episodes) == ("observation", "accuracy", 100)
    np.testing.assert_array_equal(found.delays, range(8))
    np.testing.assert_array_equal(found.score[:4], 1)  # the present step is one of the four
    assert (np.abs(found.score[4:] - found.chance[4:]) < 4 * found.error[4:] + 0.02).all()
    assert found.sight[0] == 1
    assert (found.sight[1:] < 0.35).all()
    assert (np.abs(found.chance - 0.25) < 0.06).all()
    card = probe_cue(saved, 0, SAMPLED)  # of four steps, the oldest
    assert card is not None
    assert card.target == "card to repeat"
    np.testing.assert_array_equal(card.score[card.delays >= 3], 1)
    assert (card.sight[card.delays >= 3] < 0.5).all()


def test_without_memory_there_is_nothing_to_read():
    saved = untrained("popgym/RepeatPreviousEasy", memrl.MLPConfig())
    found = probe_observation(saved, 0, SAMPLED)
    np.testing.assert_array_equal(found.score, found.chance)
    assert found.sight[0] == 1
    trace = trace_episode(saved, 0, SAMPLED)
    np.testing.assert_array_equal(trace.norms, np.zeros((51, 1)))
    assert attention_maps(saved, 0, SAMPLED) == ()


def test_the_cue_is_held_as_long_as_the_window():
    saved = untrained("memory/TMaze", memrl.WindowAttentionConfig(window=3), env_options={"length": 6})
    cue = probe_cue(saved, 0, SAMPLED)
    assert cue is not None
    assert (cue.target, cue.measure) == ("goal", "accuracy")
    np.testing.assert_array_equal(cue.delays, range(7))
    np.testing.assert_array_equal(cue.score[:3], 1)
    assert (np.abs(cue.score[3:] - 0.5) < 4 * cue.error[3:]).all()
    assert (cue.chance < 0.7).all()
    assert cue.sight[0] == 1
    assert (cue.sight[1:] < 0.7).all()
    np.testing.assert_allclose(cue.error[3:], 0.05, atol=0.01)


def test_numbers_are_told_by_a_shift_register():
    linear = dataclasses.replace(NETWORK, activation="leaky_relu", stack=memrl.StackConfig(norm="none"))
    saved = untrained("popgym/NoisyPositionOnlyPendulumHard", memrl.WindowAttentionConfig(window=4), network=linear)
    options = dataclasses.replace(SAMPLED, max_steps=30)
    found = probe_observation(saved, 0, options)
    assert found.measure == "R²"
    assert (found.score[:4] > 0.97).all()
    assert (found.score[4:] < 0.9).all()  # the pendulum moves on, and each sight of it has noise of its own
    assert (found.sight[1:] < found.score[1:]).all()
    assert (np.abs(found.chance) < 0.05).all()
    assert probe_cue(saved, 0, options) is None


def test_a_delay_line_of_the_lmu():
    saved = untrained("popgym/RepeatPreviousEasy", memrl.LMUConfig(memories=8, order=12, window=3.0))
    found = probe_observation(saved, 0, SAMPLED)
    assert (found.score[:5] > 0.9).all()
    assert found.score[7] < found.score[4] - 0.3  # long gone


@pytest.fixture(scope="module")
def hybrid() -> SavedRun:
    """Two layers, one of which attends, and an agent that sees more than its task shows, in other units."""
    network = dataclasses.replace(NETWORK, previous_action=True, previous_reward=True, episode_start=True)
    cores = memrl.S5Config(state_size=4), memrl.GTrXLConfig(memory=5, heads=2)
    agent = dataclasses.replace(AGENT, normalise_observations=True)
    return untrained("memory/TMaze", *cores, env_options={"length": 6}, network=network, agent=agent, seeds=2)


def test_norms_are_those_of_the_states(hybrid):
    trace = trace_episode(hybrid, 1, SAMPLED)
    assert trace.layers == ("s5", "gtrxl")
    assert trace.labels == ("[0]", "[1]", "[2]", "[3]")
    assert (trace.norms.shape, trace.observations.shape) == ((7, 2), (7, 4))
    assert trace.ended
    assert len(trace.actions) == len(trace.rewards) == 7
    # The same episode by the agent's own network, which sees the last action and reward.
    agent = hybrid.assembly.agent
    state = jax.tree.map(lambda x: x[1], hybrid.states)
    network = agent.network(state)
    memory, norms = network.initial_state(1), []
    for t, observation in enumerate(trace.observations):
        seen = {
            "observation": observation[None],
            "previous_action": np.eye(4, dtype=np.float32)[trace.actions[t - 1]][None] * (t > 0),
            "previous_reward": np.array([[trace.rewards[t - 1] * (t > 0)]], np.float32),
            "start": np.array([[t == 0]], np.float32),
        }
        memory, _ = network.step(memory, agent.see(state, jax.tree.map(jnp.asarray, seen)), jnp.array([t == 0]))
        leaves = [np.concatenate([np.ravel(x) for x in jax.tree.leaves(layer)]) for layer in memory[0]]
        norms.append([np.linalg.norm(x) for x in leaves])
    np.testing.assert_allclose(trace.norms, norms, rtol=1e-4)


def test_attention_goes_back_as_far_as_the_window(hybrid):
    (found,) = attention_maps(hybrid, 1, SAMPLED)
    assert found.layer == 1
    assert found.weights.shape == (2, 7, 7)
    np.testing.assert_allclose(found.weights.sum(-1), 1, rtol=1e-5)
    age = np.arange(7)[:, None] - np.arange(7)
    in_sight = (age >= 0) & (age <= 5)
    assert (found.weights[:, in_sight] > 0).all()
    assert (found.weights[:, ~in_sight] == 0).all()


def test_the_whole_is_its_parts(hybrid):
    whole = look_inside(hybrid, 1, SAMPLED)
    parts = trace_episode(hybrid, 1, SAMPLED), attention_maps(hybrid, 1, SAMPLED)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), whole.trace[1:3], parts[0][1:3])
    np.testing.assert_array_equal(whole.trace.actions, parts[0].actions)
    np.testing.assert_allclose(whole.attention[0].weights, parts[1][0].weights, rtol=1e-4, atol=1e-5)
    assert whole.cue is not None
    assert (whole.cue.score > 0.95).all()  # S5 forgets slowly
    other = trace_episode(hybrid, 1, dataclasses.replace(SAMPLED, episode_seed=1))
    assert (other.actions != whole.trace.actions).any()


def test_an_episode_that_goes_on():
    saved = untrained("popgym/RepeatPreviousEasy", memrl.GRUConfig())
    options = dataclasses.replace(SAMPLED, max_steps=5)
    found = look_inside(saved, 0, options)
    assert not found.trace.ended
    assert found.trace.observations.shape == (5, 4)
    assert found.trace.labels == ("= 0", "= 1", "= 2", "= 3")
    np.testing.assert_array_equal(found.observation.delays, [0, 1, 2])  # half of what was played
    assert found.cue is not None
    np.testing.assert_array_equal(found.cue.delays, range(5))


def test_wide_states_are_played_less_often(monkeypatch):
    saved = untrained("memory/TMaze", memrl.GRUConfig(), env_options={"length": 2})
    monkeypatch.setattr(insight, "_MOST_NUMBERS", 2 * 32 * 8 * 30)
    cue = probe_cue(saved, 0, SAMPLED)
    assert cue is not None
    assert cue.episodes == 30


@pytest.mark.parametrize(
    ("env", "fields"),
    [
        ("gymnax/Breakout-MinAtar", {}),  # pixels, more than are told one by one
        ("memory/TMaze", {"trials": 2}),
        pytest.param("popgym/CountRecallEasy", {}, marks=pytest.mark.slow),
        pytest.param("memory/TMaze", {"projection": 5}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_all_observations(env, fields):
    saved = untrained(env, memrl.GRUConfig(), **fields)
    found = look_inside(saved, 0, dataclasses.replace(SAMPLED, max_steps=12, episodes=30))
    assert len(found.trace.labels) == found.trace.observations.shape[1]
    assert np.isfinite(found.observation.score).any()
    assert (found.cue is not None) == (env == "memory/TMaze")


def test_cues_are_in_the_states_of_their_tasks():
    named = []
    for name in memrl.list_envs():
        if name.startswith(("memory/", "meta/", "popgym/")):
            env, params = memrl.make_env(name)
            cue = cue_of(env)
            if cue is not None:
                _, state = jax.vmap(env.reset, (0, None))(jax.random.split(jax.random.key(0), 3), params)
                value = jnp.asarray(cue.of(state))
                assert value.shape[0] == 3
                assert value.dtype in (jnp.int32, jnp.int8, jnp.bool_), name
                named.append(name)
    assert {"memory/TMaze", "popgym/RepeatFirstHard", "memory/Copy", "meta/BernoulliBandit"} <= set(named)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"episode_seed": -1}, "insight: episode_seed is -1, expected between 0 and"),
        ({"max_steps": 0}, "insight: max_steps is 0, expected at least 1"),
        ({"episodes": 0}, "insight: episodes is 0, expected at least 1"),
        ({"max_delay": -1}, "insight: max_delay is -1, expected at least 0"),
    ],
)
def test_options_out_of_range(fields, expected):
    with pytest.raises(MemrlError, match=expected):
        InsightOptions(**fields)


def test_a_seed_that_the_run_has_not(hybrid):
    with pytest.raises(MemrlError, match="seed index is 2, expected between 0 and 1"):
        look_inside(hybrid, 2)
