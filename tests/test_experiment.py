"""The description of a run: JSON, sizes, seeds, and what it is assembled to."""

import dataclasses
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import quick_jit

from memrl import (
    CoreConfig,
    Experiment,
    GRUConfig,
    MemrlError,
    MLPConfig,
    NetworkConfig,
    PPOConfig,
    StackConfig,
    assemble,
    core_config,
    list_agents,
    list_cores,
    make_train,
    seed_keys,
)
from memrl.agents import AGENTS
from memrl.experiment import experiment_from_json, experiment_to_json
from memrl.spaces import Dict

TMaze = partial(Experiment, env="memory/TMaze")
TINY = TMaze(
    network=NetworkConfig(features=8, encoder_sizes=(), head_sizes=()),
    agent=PPOConfig(num_envs=4, num_steps=12, epochs=1, minibatches=1),
    env_options={"length": 2},
    total_steps=100,
    seeds=2,
)


# ---- JSON


def through_json(experiment):
    return experiment_from_json(json.loads(json.dumps(experiment_to_json(experiment))))


@pytest.mark.parametrize("core", list_cores())
def test_every_core_survives_json(core):
    experiment = TMaze(core=core_config(core))
    assert through_json(experiment) == experiment
    assert experiment_to_json(experiment)["core"]["name"] == core


@pytest.mark.parametrize("agent", list_agents())
def test_every_agent_survives_json(agent):
    experiment = TMaze(agent=AGENTS[agent].config(num_envs=32, num_steps=32))
    assert through_json(experiment) == experiment
    assert experiment_to_json(experiment)["agent"]["name"] == agent


def test_everything_survives_json():
    experiment = TMaze(
        env_options={"length": 5},
        core=(GRUConfig(hidden_size=16), MLPConfig()),
        network=NetworkConfig(
            encoder_sizes=(),
            head_sizes=(8, 8),
            stack=StackConfig(layers=3, residual="gate"),
            previous_action=True,
        ),
        agent=PPOConfig(num_steps=64, chunk_length=16, target_kl=0.02, schedule="cosine"),
        total_steps=5,
        seed=7,
        seeds=3,
        best_return=1,
    )
    assert through_json(experiment) == experiment
    assert isinstance(through_json(TMaze(core=(GRUConfig(),))).core, tuple)


def changed(**fields):
    """The JSON of an experiment with some fields replaced; dots lead inside."""
    data = json.loads(json.dumps(experiment_to_json(TMaze())))
    for path, value in fields.items():
        inner = data
        *folders, name = path.split("__")
        for folder in folders:
            inner = inner[folder]
        inner[name] = value
    return data


MISTAKES = {
    "unknown field": (changed(sed=3), "unknown field of experiment 'sed': did you mean 'seed'?"),
    "unknown core": (changed(core={"name": "grru"}), "unknown core 'grru': did you mean 'gru'?"),
    "unknown agent": (changed(agent__name="poo"), "unknown agent 'poo': did you mean 'ppo'?"),
    "core's field": (
        changed(core__hidden=3),
        "unknown field of core gru 'hidden': did you mean",
    ),
    "core's type": (changed(core__hidden_size="x"), "core gru: hidden_size is 'x', expected int or None"),
    "core without name": (changed(core={}), "experiment: core is {}, expected its fields and its name"),
    "core by name": (changed(core="gru"), "experiment: core is 'gru', expected its fields and its name"),
    "one of the cores": (
        changed(core=["gru"]),
        "experiment: core is 'gru', expected its fields and its name",
    ),
    "no cores": (changed(core=[]), "experiment: core is an empty tuple, expected at least one core"),
    "agent by name": (changed(agent="ppo"), "experiment: agent is 'ppo', expected its fields and its name"),
    "agent's field": (changed(agent__clipp=0.1), "unknown field of agent ppo 'clipp': did you mean 'clip'?"),
    "agent's type": (changed(agent__num_envs="x"), "agent ppo: num_envs is 'x', expected int"),
    "agent's size": (changed(agent__num_envs=0), "ppo: num_envs is 0, expected at least 1"),
    "network's type": (changed(network__features="x"), "experiment.network: features is 'x', expected int"),
    "stack's type": (
        changed(network__stack__layers="2"),
        "experiment.network.stack: layers is '2', expected int",
    ),
    "stack's choice": (
        changed(network__stack__norm="x"),
        "experiment.network.stack: norm is 'x', expected one of 'layer', 'none'",
    ),
    "env": (changed(env=3), "experiment: env is 3, expected str"),
    "total_steps": (changed(total_steps=0), "experiment: total_steps is 0, expected at least 1"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_in_json(case):
    data, message = MISTAKES[case]
    with pytest.raises(MemrlError) as error:
        experiment_from_json(data)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["env", "core", "agent"])
def test_what_has_no_default_must_be_there(name):
    data = changed()
    del data[name]
    with pytest.raises(MemrlError, match=f"^experiment has no field '{name}'$"):
        experiment_from_json(data)


# ---- sizes, seeds, mistakes


@pytest.mark.parametrize(("total_steps", "updates"), [(1, 1), (48, 1), (49, 2), (96, 2), (100, 3)])
def test_updates_are_rounded_up(total_steps, updates):
    assert dataclasses.replace(TINY, total_steps=total_steps).num_updates == updates


def test_a_seed_does_not_depend_on_those_beside_it():
    keys = jax.random.key_data(seed_keys(TMaze(seed=3, seeds=4)))
    np.testing.assert_array_equal(keys[2:], jax.random.key_data(seed_keys(TMaze(seed=5, seeds=2))))
    assert len(np.unique(keys, axis=0)) == 4


def test_seeds_do_not_wrap_round():
    """The key of 2**32 is that of 0."""
    seed_keys(TMaze(seed=2**32 - 2, seeds=2))
    with pytest.raises(MemrlError, match="seed is 4294967294, expected between 0 and 4294967293"):
        TMaze(seed=2**32 - 2, seeds=3)


INVALID = {
    "experiment: seeds is 0, expected at least 1": {"seeds": 0},
    "experiment: trials is 0, expected at least 1": {"trials": 0},
    "experiment: permute_actions is True without a projection, expected": {"permute_actions": True},
    "experiment: evaluation_episodes is -1, expected at least 1": {"evaluation_episodes": -1},
    "experiment: seed is -1, expected between": {"seed": -1},
    "experiment: total_steps is 1.5, expected int": {"total_steps": 1.5},
    "experiment: core is 'gru', expected CoreConfig or a tuple of CoreConfig": {"core": "gru"},
    "experiment: core is an empty tuple, expected at least one core": {"core": ()},
    "experiment: agent is None, expected AgentConfig": {"agent": None},
}


@pytest.mark.parametrize("message", INVALID)
def test_mistakes_in_python(message):
    with pytest.raises(MemrlError, match=f"^{message}"):
        TMaze(**INVALID[message])


def test_what_cannot_be_made():
    with pytest.raises(MemrlError, match=r"^unknown environment 'memory/TMase': did you mean 'memory/TMaze'"):
        assemble(Experiment(env="memory/TMase"))
    with pytest.raises(MemrlError, match=r"^unknown option of environment 'memory/TMaze' 'lenght'"):
        assemble(TMaze(env_options={"lenght": 3}))
    with pytest.raises(MemrlError, match=r"^core is a CoreConfig, expected the configuration of one of"):
        jax.eval_shape(assemble(TMaze(core=CoreConfig())).agent.init, jax.random.key(0))


# ---- assembly and training


@pytest.mark.parametrize("parts", [(), ("previous_action",), ("previous_reward", "episode_start")])
def test_the_agent_sees_what_was_asked_for(parts):
    network = dataclasses.replace(TINY.network, **dict.fromkeys(parts, True))
    env, params, _ = assemble(dataclasses.replace(TINY, network=network))
    space = env.observation_space(params)
    if not parts:
        assert space.shape == (4,)
        return
    assert isinstance(space, Dict)
    names = ["start" if part == "episode_start" else part for part in parts]
    assert list(space.spaces) == ["observation", *names]


def test_a_disguised_task_with_several_trials():
    """Projection inside, trials round it, previous actions outside; and an update runs."""
    network = dataclasses.replace(TINY.network, previous_action=True)
    experiment = dataclasses.replace(TINY, network=network, projection=5, permute_actions=True, trials=2)
    env, params, agent = assemble(experiment)
    space = env.observation_space(params)
    assert isinstance(space, Dict)
    trials = space.spaces["observation"]
    assert isinstance(trials, Dict)
    assert set(trials.spaces) == {"observation", "trial_start"}
    assert trials.spaces["observation"].shape == (5,)  # pyright: ignore[reportAttributeAccessIssue]
    metrics = quick_jit(lambda key: agent.update(agent.init(key))[1])(jax.random.key(0))
    assert metrics["nonfinite_steps"] == 0
    assert metrics["episode_length"] == 2 * 3  # two trials of a corridor of 2 steps


def test_previous_actions_reach_the_agent():
    """Also on an episode's final observation: what was done there is part of its value."""
    network = dataclasses.replace(TINY.network, previous_action=True, episode_start=True)
    env, params, agent = assemble(dataclasses.replace(TINY, network=network))
    state = quick_jit(agent.init)(jax.random.key(0))
    transitions = quick_jit(agent.collect)(state, jax.random.key(1))[1].transitions
    seen, reset = transitions.observation, np.asarray(transitions.reset)
    expected = np.where(reset[1:, :, None], 0, jax.nn.one_hot(transitions.action[:-1], 4))
    np.testing.assert_array_equal(seen["previous_action"][1:], expected)
    np.testing.assert_array_equal(seen["start"][..., 0], reset)
    first = jax.tree.map(lambda x: x[0], state.rollout)
    for action in range(4):
        info = env.step(jax.random.key(0), first.environment, jnp.int32(action), params)[-1]
        np.testing.assert_array_equal(info["final_observation"]["previous_action"], np.eye(4)[action])


def test_training_is_a_function_of_keys():
    """The same key gives the same agent, another key another one."""
    first_key, second_key = seed_keys(TINY)
    result = quick_jit(jax.vmap(make_train(TINY)))(jnp.stack([first_key, second_key, first_key]))
    np.testing.assert_array_equal(result.state.update, [3, 3, 3])
    assert result.metrics["loss"].shape == (3, 3)
    first, second, again = (jax.tree.map(lambda x, i=i: x[i], result.state.params) for i in range(3))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert any(np.abs(x - y).max() > 0.01 for x, y in zip(*map(jax.tree.leaves, (first, second)), strict=True))
