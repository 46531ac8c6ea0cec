"""An exported policy does what the agent does, from its own files alone."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import memrl
from memrl.agents.normaliser import Moments
from memrl.envs import make_env
from memrl.errors import MemrlError
from memrl.experiment import Experiment, assemble
from memrl.kernels import backends
from memrl.policy import FORMAT, INITIAL_STATE, POLICY_JSON, STEP, WEIGHTS, file_digest, load_policy
from memrl.runner import RunOptions, SavedRun, load_saved, run
from memrl.runner.acting import acting_of, policy_of
from memrl.runner.export import export_policy, export_run, exported
from memrl.runner.program import initial_states

# Small, so that windows and chunks come to their ends within an episode.
SMALL = {
    "gtrxl": {"memory": 5},
    "window_attention": {"window": 5},
    "atlas": {"chunk_length": 4},
    "titans": {"chunk_length": 4},
    "titans_mac": {"chunk_length": 4},
    "gmu": {},
}
NETWORK = memrl.NetworkConfig(features=8, encoder_sizes=(), head_sizes=())
SEES_ALL = dataclasses.replace(NETWORK, previous_action=True, previous_reward=True, episode_start=True)
AGENT = memrl.PPOConfig(num_envs=2, num_steps=4, minibatches=1, epochs=1)


def untrained(env: str = "popgym/PositionOnlyCartPoleEasy", *cores: str, **fields) -> SavedRun:
    """A run that has learned nothing, but whose policies prefer different actions in different states."""
    chosen = tuple(memrl.core_config(core, **SMALL.get(core, {})) for core in cores or ("gru",))
    fields = {"network": NETWORK, "agent": AGENT, **fields}
    experiment = Experiment(env=env, core=chosen[0] if len(chosen) == 1 else chosen, **fields)
    assembly = assemble(experiment)
    states = initial_states(assembly.agent, experiment)
    params = jax.tree_util.tree_map_with_path(
        lambda path, x: 300 * x if "policy" in jax.tree_util.keystr(path) else x, states.params
    )
    states = states._replace(params=params)
    if states.observations is not None:
        states = states._replace(observations=jax.tree.map(_some_moments, states.observations, is_leaf=_is_moments))
    return SavedRun(experiment, assembly, 0, states)


def _is_moments(x) -> bool:
    return isinstance(x, Moments)


def _some_moments(moments: Moments) -> Moments:
    mean = jax.tree.map(lambda x: x + 0.1, moments.mean)
    return Moments(moments.samples + 9, mean, jax.tree.map(lambda x: 0.3 * x, moments.variance))


def actions_of_both(saved: SavedRun, policy: memrl.Policy, batch_size: int, steps: int) -> tuple[np.ndarray, ...]:
    """Actions [T, B] of the agent in its wrapped environment, those of the policy beside it, and the resets."""
    env, env_params, agent = saved.assembly
    state = jax.tree.map(lambda x: x[0], saved.states)

    @jax.jit
    def step(memory, seen, environment, reset, keys):
        network = agent.network(state)
        memory, output = network.step(memory, agent.see(state, seen), reset)
        action = network.environment_action(output.policy.mode())
        stepped = jax.vmap(env.step, (0, 0, 0, None))(keys, environment, action, env_params)
        seen, environment, reward, terminated, truncated, _ = stepped
        return memory, seen, environment, reward, terminated | truncated, action

    keys = jax.random.split(jax.random.key(1), (steps + 1, batch_size))
    seen, environment = jax.vmap(env.reset, (0, None))(keys[0], env_params)
    memory, carried = agent.network(state).initial_state(batch_size), policy.initial_state(batch_size)
    reset, reward = np.ones(batch_size, bool), np.zeros(batch_size, np.float32)
    actions, others, resets = [], [], []
    for t in range(steps):
        takes = {"reward": reward} if policy.facts.takes_reward else {}
        shown = seen["observation"] if policy.facts.takes_reward else seen
        carried, other = policy.step(carried, shown, reset, **takes)
        resets.append(reset)
        memory, seen, environment, reward, reset, action = step(memory, seen, environment, reset, keys[t + 1])
        actions.append(action)
        others.append(other)
    return np.stack(actions), np.stack(others), np.stack(resets)


ALIKE = [("gru",), ("s5",), ("gtrxl",), ("s5", "gmu")]
SLOW = [
    ("window_attention",),
    ("titans",),
    ("lstm",),
    ("mamba",),
    ("gated_deltanet",),
    ("titans_mac",),
    ("atlas",),
    ("lmu",),
    ("rwkv7",),
]


@pytest.mark.parametrize("cores", [*ALIKE, *(pytest.param(cores, marks=pytest.mark.slow) for cores in SLOW)], ids=str)
def test_the_exported_policy_acts_as_the_agent(tmp_path, cores):
    agent = dataclasses.replace(AGENT, normalise_observations=True)
    saved = untrained("popgym/PositionOnlyCartPoleEasy", *cores, network=SEES_ALL, agent=agent)
    export_policy(saved, tmp_path / "policy")
    policy = load_policy(tmp_path / "policy")
    for batch_size in (1, 5):
        actions, others, resets = actions_of_both(saved, policy, batch_size, steps=50)
        np.testing.assert_array_equal(others, actions)
        assert 0.02 < actions.mean() < 0.98  # both actions
        assert resets[1:].any()
        assert batch_size == 1 or not resets[1:].all(1).any()  # at different times


# One of each way to compute; the others take minutes.
QUICK = {"mlp", "gru", "s5", "gmu", "gtrxl", "mamba", "lssl", "gated_deltanet", "titans"}


@pytest.mark.parametrize(
    "core", [c if c in QUICK else pytest.param(c, marks=pytest.mark.slow) for c in memrl.list_cores()]
)
def test_every_core_can_be_exported(core, monkeypatch):
    cores = ("s5", "gmu") if core == "gmu" else (core,)
    saved = untrained("popgym/RepeatPreviousEasy", *cores)
    acting = acting_of(saved, 0, greedy=True)
    # As on a machine with a GPU, where other programs of the same functions have its kernels.
    monkeypatch.setattr(backends, "backends", lambda: {"cpu": None, "cuda": None})
    monkeypatch.setattr(backends, "compute_capability", lambda: 9.0)
    monkeypatch.setattr("memrl.kernels.cells.compute_capability", lambda: 9.0)
    inputs = {"observation": jnp.zeros(2, jnp.int32), "reset": jnp.ones(2, bool)}
    state = jax.eval_shape(lambda weights: acting.start(weights, 2), acting.weights)
    program = jax.make_jaxpr(acting.act)(acting.weights, state, inputs)
    assert core not in ("gru", "lssl", "mamba") or "pallas_call" in str(program)
    for program in exported(acting, saved, greedy=True):
        assert set(program.platforms) == {"cpu", "cuda", "tpu"}
        assert "triton" not in program.mlir_module()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The policies of two seeds of a real run, whose folder is beside them."""
    path = tmp_path_factory.mktemp("policies")
    experiment = Experiment(
        "memory/TMaze", {"length": 3}, network=SEES_ALL, agent=AGENT, total_steps=16, seeds=2, evaluation_episodes=1
    )
    run(experiment, path / "run", RunOptions(track=(), quiet=True))
    for seed in (0, 1):
        assert export_run(path / "run", path / f"policy{seed}", seed) == path / f"policy{seed}"
    return path


def random_steps(policy: memrl.Policy, batch_size: int = 64) -> np.ndarray:
    rng = np.random.default_rng(0)
    state, actions = policy.initial_state(batch_size), []
    for t in range(4):
        observation = rng.random((batch_size, 4)) * 9
        reset, reward = rng.random(batch_size) < (t == 0), rng.random(batch_size)
        state, action = policy.step(state, observation, reset, reward=reward)
        actions.append(action)
    return np.stack(actions)


def test_a_run_is_exported(folder):
    saved = load_saved(folder / "run")
    for seed in (0, 1):
        policy = load_policy(folder / f"policy{seed}")
        np.testing.assert_array_equal(random_steps(policy), random_steps(policy_of(saved, seed, greedy=True)))
    facts = load_policy(folder / "policy1").facts
    assert facts.environment["name"] == "memory/TMaze"
    assert facts.environment["options"] == {"length": 3}
    assert facts.observation_space["shape"] == [4]
    assert facts.action_space == {"kind": "Discrete", "n": 4}
    assert facts.core[0]["name"] == "gru"
    assert (facts.seed, facts.update, facts.greedy, facts.carries) == (1, 2, True, ["previous_action"])
    assert {path.name for path in (folder / "policy1").iterdir()} == {POLICY_JSON, WEIGHTS, STEP, INITIAL_STATE}
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_the_weights_are_those_of_the_file(folder, tmp_path):
    mixed = tmp_path / "mixed"
    shutil.copytree(folder / "policy0", mixed)
    shutil.copy(folder / "policy1" / WEIGHTS, mixed)
    redigest(mixed)
    first, second, both = (random_steps(load_policy(path)) for path in (folder / "policy0", folder / "policy1", mixed))
    assert (first != second).any()
    np.testing.assert_array_equal(both, second)


def redigest(policy: Path) -> None:
    """Writes the digests of the files as they are."""
    content = json.loads((policy / POLICY_JSON).read_text())
    content["files"] = {name: file_digest((policy / name).read_bytes()) for name in content["files"]}
    (policy / POLICY_JSON).write_text(json.dumps(content))


def test_loading_needs_no_agent_network_or_core(folder):
    script = f"""
import sys, types
package = types.ModuleType("memrl")  # in the place of the package's own file, which imports everything
package.__path__ = {list(memrl.__path__)!r}
sys.modules["memrl"] = package
from memrl.policy import load_policy
policy = load_policy({str(folder / "policy0")!r})
import numpy as np
state, action = policy.step(policy.initial_state(2), np.eye(4, dtype=np.float32)[:2], True, reward=0.0)
assert action.shape == (2,)
print(*sorted(name for name in sys.modules if name.split(".")[0] in ("memrl", "flax", "distrax", "gymnax", "optax")))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["memrl", "memrl.errors", "memrl.policy"]


def test_a_sampled_policy_draws_as_the_network_says(tmp_path):
    saved = untrained("memory/TMaze")
    export_policy(saved, tmp_path / "policy", greedy=False)
    policy, same = load_policy(tmp_path / "policy"), policy_of(saved, 0, greedy=False)
    few, many = 3, 20_000
    observation, key = np.tile(np.array([1, 0, 0, 0], np.float32), (many, 1)), jax.random.key(5)
    _, drawn = policy.step(policy.initial_state(many), observation, True, key)
    _, alike = same.step(same.initial_state(many), observation, True, key)
    _, first = policy.step(policy.initial_state(few), observation[:few], True, key)
    np.testing.assert_array_equal(drawn, alike)
    np.testing.assert_array_equal(drawn[:few], first)  # a row does not depend on how many there are
    _, other = policy.step(policy.initial_state(many), observation, True, jax.random.key(6))
    assert (drawn != other).any()
    network = saved.assembly.agent.network(jax.tree.map(lambda x: x[0], saved.states))
    _, output = network.step(network.initial_state(1), jnp.asarray(observation[:1]), jnp.ones(1, bool))
    probabilities = np.exp([float(jnp.asarray(output.policy.log_prob(jnp.array([a])))[0]) for a in range(4)])
    frequencies = np.bincount(np.asarray(drawn), minlength=4) / many
    np.testing.assert_allclose(frequencies, probabilities, atol=4 * np.sqrt(0.25 / many))
    assert np.sum(probabilities > 0.02) > 1
    with pytest.raises(MemrlError, match="key is None, expected a random key"):
        policy.step(policy.initial_state(1), observation[:1], True)


SPACES = {
    "discrete": ("popgym/RepeatPreviousEasy", {}),
    "multi-discrete action": ("popgym/BattleshipEasy", {"network": SEES_ALL}),
    "box action": ("popgym/PositionOnlyPendulumEasy", {"network": SEES_ALL}),
    "dict": ("memory/TMaze", {"trials": 2, "network": SEES_ALL}),
    "image": ("gymnax/Freeway-MinAtar", {}),
    "two torsos": ("memory/Passkey", {"network": dataclasses.replace(NETWORK, critic="separate")}),
}


@pytest.mark.parametrize(
    ("env", "fields"),
    [pytest.param(*space, id=name, marks=[] if name in ("dict", "box action") else [pytest.mark.slow])
     for name, space in SPACES.items()],
)  # fmt: skip
def test_all_spaces(tmp_path, env, fields):
    saved = untrained(env, **fields)
    export_policy(saved, tmp_path / "policy")
    policy = load_policy(tmp_path / "policy")
    actions, others, _ = actions_of_both(saved, policy, batch_size=3, steps=40)
    if actions.dtype == np.float32:
        np.testing.assert_allclose(others, actions, rtol=1e-4, atol=1e-5)
    else:
        np.testing.assert_array_equal(others, actions)
    assert (actions != actions[0, 0]).any()
    assert not [name for name in weights_of(tmp_path / "policy") if "value" in name or "critic" in name]


def weights_of(policy: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(policy / WEIGHTS)


def test_observations_are_those_of_the_bare_environment(folder):
    env, params = make_env("memory/TMaze", length=3)
    observation, _ = jax.vmap(env.reset, (0, None))(jax.random.split(jax.random.key(0), 2), params)
    policy = load_policy(folder / "policy0")
    step = jax.jit(policy.step)
    state, _ = step(policy.initial_state(2), observation, jnp.ones(2, bool), reward=jnp.zeros(2))
    step(state, observation, jnp.zeros(2, bool), reward=jnp.ones(2))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"observation": np.zeros((2, 5))}, r"observation has shape \(2, 5\), expected \[B, 4\]"),
        ({"observation": np.zeros(4)}, r"observation has shape \(4,\), expected \[B, 4\]"),
        ({"observation": {"observation": np.zeros((2, 4))}}, "observation is a PyTreeDef.*expected a PyTreeDef"),
        ({"observation": np.zeros((2, 4), complex)}, "observation is complex128, expected float32"),
        ({"observation": np.zeros((3, 4))}, r"state is of \[2\] environments, the observation of 3"),
        ({"reset": np.zeros(3, bool)}, r"reset has shape \(3,\), expected \[2\]"),
        ({"reset": np.zeros(2)}, "reset is float64, expected bool"),
        ({"reward": None}, "reward is None, expected"),
        ({"reward": np.zeros((2, 1))}, r"reward has shape \(2, 1\), expected \[2\]"),
    ],
)
def test_wrong_arguments_of_a_step(folder, change, expected):
    policy = load_policy(folder / "policy0")
    arguments = {"observation": np.zeros((2, 4)), "reset": True, "reward": np.zeros(2)}
    policy.step(policy.initial_state(2), **arguments)
    with pytest.raises(MemrlError, match=expected):
        policy.step(policy.initial_state(2), **(arguments | change))


def test_a_reward_that_is_not_wanted():
    policy = policy_of(untrained("memory/TMaze"), 0, greedy=True)
    with pytest.raises(MemrlError, match="reward is given, expected None"):
        policy.step(policy.initial_state(1), np.zeros((1, 4)), True, reward=np.zeros(1))
    with pytest.raises(MemrlError, match="batch_size is 0, expected at least 1"):
        policy.initial_state(0)


def truncate(policy: Path, name: str) -> None:
    (policy / name).write_bytes((policy / name).read_bytes()[:-9])


def change_json(policy: Path, **fields) -> None:
    content = json.loads((policy / POLICY_JSON).read_text())
    (policy / POLICY_JSON).write_text(json.dumps(content | fields))


def truncate_knowingly(policy: Path, name: str) -> None:
    truncate(policy, name)
    redigest(policy)


def other_weights(policy: Path, change) -> None:
    from safetensors.numpy import save_file

    save_file(change(weights_of(policy)), policy / WEIGHTS)
    redigest(policy)


BIAS = "actor.policy.output.bias"
DAMAGE = {
    "no folder": (shutil.rmtree, "is not a folder, expected one that memrl export wrote"),
    "no description": (lambda p: (p / POLICY_JSON).unlink(), "no policy.json there"),
    "no weights": (lambda p: (p / WEIGHTS).unlink(), "weights.safetensors is missing"),
    "no step": (lambda p: (p / STEP).unlink(), "step.jaxexport is missing"),
    "description cut": (lambda p: truncate(p, POLICY_JSON), "policy.json is damaged"),
    "weights cut": (lambda p: truncate(p, WEIGHTS), "weights.safetensors is damaged: its SHA-256"),
    "weights cut knowingly": (lambda p: truncate_knowingly(p, WEIGHTS), "weights.safetensors is damaged"),
    "step cut": (lambda p: truncate(p, STEP), "step.jaxexport is damaged"),
    "step cut knowingly": (lambda p: truncate_knowingly(p, STEP), "cannot read step.jaxexport, of JAX"),
    "newer": (lambda p: change_json(p, format=FORMAT + 1), f"format is {FORMAT + 1}, expected {FORMAT}"),
    "something else": (lambda p: (p / POLICY_JSON).write_text("[1]"), "format is None, expected"),
    "no facts": (lambda p: change_json(p, facts={"core": 1}), "policy.json is damaged: expected facts"),
    "a weight less": (lambda p: other_weights(p, lambda w: {k: w[k] for k in w if k != BIAS}), f"has no '{BIAS}'"),
    "a weight more": (lambda p: other_weights(p, lambda w: w | {"new": w[BIAS]}), "has 'new', which"),
    "a weight's shape": (lambda p: other_weights(p, lambda w: w | {BIAS: w[BIAS][1:]}), r"is float32\[3\], expected"),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "expected"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_policies(folder, tmp_path, damage, expected):
    policy = tmp_path / "policy"
    shutil.copytree(folder / "policy0", policy)
    damage(policy)
    with pytest.raises(MemrlError, match=expected) as error:
        load_policy(policy)
    assert str(policy) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_platform_that_it_was_not_exported_for(folder, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "metal")
    with pytest.raises(MemrlError, match="platforms are cpu, cuda, tpu, expected metal"):
        load_policy(folder / "policy0")


def test_what_is_there_is_not_replaced(folder, tmp_path):
    policy, mine = tmp_path / "policy", tmp_path / "mine"
    shutil.copytree(folder / "policy1", policy)
    mine.mkdir()
    (mine / "thesis.txt").write_text("years")
    with pytest.raises(MemrlError, match="policy exists, expected a new folder, or --overwrite"):
        export_run(folder / "run", policy)
    with pytest.raises(MemrlError, match="mine holds something else than a policy"):
        export_run(folder / "run", mine, overwrite=True)
    with pytest.raises(MemrlError, match="is not a folder, expected one that exists"):
        export_run(folder / "run", tmp_path / "nowhere" / "policy")
    with pytest.raises(MemrlError, match=re.escape("seed index is 2, expected between 0 and 1")):
        export_run(folder / "run", tmp_path / "new", 2)
    assert (mine / "thesis.txt").read_text() == "years"
    assert load_policy(policy).facts.seed == 1
    export_run(folder / "run", policy, overwrite=True)
    assert load_policy(policy).facts.seed == 0
    assert {path.name for path in tmp_path.iterdir()} == {"policy", "mine"}


@pytest.mark.parametrize("when", ["written", "renamed"])
def test_a_full_disk_leaves_what_was_there(folder, tmp_path, monkeypatch, when):
    policy = tmp_path / "policy"
    shutil.copytree(folder / "policy1", policy)
    rename = Path.rename

    def full(*_):
        raise OSError(28, "No space left on device")

    def rename_or_fail(path, target):
        return full() if ".new" in path.name else rename(path, target)

    monkeypatch.setattr(*(os, "fsync", full) if when == "written" else (Path, "rename", rename_or_fail))
    with pytest.raises(MemrlError, match="cannot be written: No space left on device"):
        export_run(folder / "run", policy, overwrite=True)
    monkeypatch.undo()
    assert load_policy(policy).facts.seed == 1
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]


def test_a_run_without_a_checkpoint(folder, tmp_path):
    shutil.copytree(folder / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(MemrlError, match="no whole checkpoint"):
        export_run(tmp_path / "run", tmp_path / "policy")
    with pytest.raises(MemrlError, match=r"no config\.json there"):
        export_run(tmp_path / "nowhere", None)
    assert not (tmp_path / "policy").exists()
