"""Checks, on eight virtual devices, that training does not depend on the mesh; started by test_mesh.py."""

import dataclasses
import re
import sys
import tempfile
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memrl import Experiment, GRPOConfig, NetworkConfig, PPOConfig, core_config
from memrl.errors import MemrlError
from memrl.experiment import assemble
from memrl.runner.checkpoints import Checkpoints
from memrl.runner.folder import RunFolder
from memrl.runner.group import Group
from memrl.runner.layout import Layout, layout_of
from memrl.runner.metrics import read_metrics
from memrl.runner.program import compile_chunk, initial_states
from memrl.runner.train import RunOptions, run

NETWORK = NetworkConfig(features=8, encoder_sizes=(), head_sizes=(8,))
# Environments, groups and sequences are multiples of 11 in number, and nothing else is.
PPO = PPOConfig(
    num_envs=176,
    num_steps=8,
    chunk_length=4,
    minibatches=4,
    epochs=2,
    normalise_observations=True,
    normalise_rewards=True,
)
GRPO = GRPOConfig(
    num_envs=352, num_steps=8, group_size=4, minibatches=1, epochs=2, prefix=2, kl_weight=0.1, credit="step"
)
UPDATES = 3


def experiment_of(core: str, agent: PPOConfig | GRPOConfig = PPO, seeds: int = 2) -> Experiment:
    steps = UPDATES * agent.steps_per_update
    env_options = {"length": 5} if agent is PPO else {"length": 8}
    return Experiment(
        env="memory/TMaze",
        env_options=env_options,
        core=core_config(core),
        network=NETWORK,
        agent=agent,
        total_steps=steps,
        seeds=seeds,
        evaluation_episodes=4,
    )


def train(experiment: Experiment, layout: Layout):
    """States and metrics after some updates."""
    agent = assemble(experiment).agent
    states = initial_states(agent, experiment, layout)
    run_chunk = compile_chunk(agent.update, experiment.seeds, states, layout)
    states, metrics = run_chunk(states, UPDATES)
    return plain(layout.gather(states)), metrics


def plain(states):
    return [jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else np.asarray(x)
            for x in jax.tree.leaves(states)]  # fmt: skip


def check_same(one, other):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-3, atol=2e-5), one, other)


def collectives(experiment: Experiment, layout: Layout) -> list[tuple[str, str]]:
    """The kind of every exchange between devices in the program of an update, and the types of what it makes."""
    agent = assemble(experiment).agent
    states = initial_states(agent, experiment, layout)
    placed = jax.tree.map(lambda x: x.sharding, states)
    with layout.active():
        update = jax.jit(layout.over_seeds(agent.update, experiment.seeds), out_shardings=(placed, None))
        text = update.lower(states).compile().as_text() or ""
    kinds = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter|collective-broadcast"
    return [(kind, types) for types, kind in re.findall(rf"= (\S.*?) ({kinds})(?:-start)?\(", text)]


def check_exchanges(core: str, agent: PPOConfig | GRPOConfig):
    """Gradients and scalars are added up, and nothing else passes between devices."""
    experiment = experiment_of(core, agent, seeds=1)
    found = collectives(experiment, layout_of(experiment, "data=8"))
    assert found, "nothing is exchanged: the program is not split"
    assert {kind for kind, _ in found} == {"all-reduce"}, found
    for _, types in found:
        shapes = [[int(d) for d in dims.split(",") if d] for dims in re.findall(r"\w+\[([\d,]*)\]", types)]
        assert not any(size % 11 == 0 for shape in shapes for size in shape), f"{types} has an axis of environments"


def check_layouts(core: str, agent: PPOConfig | GRPOConfig):
    experiment = experiment_of(core, agent)
    expected = train(experiment, Layout())
    for mesh in ("data=8", "data=4,seed=2"):
        check_same(train(experiment, layout_of(experiment, mesh)), expected)


def check_defaults():
    """All devices, or as many as divide the work; seeds first."""
    alone = experiment_of("gru", seeds=1)
    assert layout_of(alone, None).sizes == (8, 1)
    assert layout_of(experiment_of("gru"), None).sizes == (4, 2)
    narrow = dataclasses.replace(alone, agent=dataclasses.replace(PPO, num_envs=6, minibatches=2))  # 2 x 6 sequences
    assert narrow.agent.parts == 6
    assert layout_of(narrow, None).sizes == (6, 1)


def check_mistakes():
    """Meshes that eight devices allow and the experiment does not."""
    narrow = dataclasses.replace(experiment_of("gru"), agent=dataclasses.replace(PPO, num_envs=6, minibatches=2))
    for mesh, experiment, expected in (
        ("data=8", narrow, "cannot be split into 8 parts, expected a divisor of 6"),
        ("data=2,seed=4", experiment_of("gru"), "2 seeds, expected a multiple of 4"),
        ("data=2", experiment_of("gru"), "2 devices, expected as many as there are: 8"),
    ):
        with pytest.raises(MemrlError, match=f"mesh is '{mesh}'.*{expected}"):
            layout_of(experiment, mesh)
    with pytest.raises(MemrlError, match="mesh is 'data=8' with memory/TMaze, which runs on the host"):
        layout_of(experiment_of("gru"), "data=8", on_host=True)
    assert layout_of(experiment_of("gru"), None, on_host=True).sizes == (1, 1)


def check_groups():
    """Runs of one program over a mesh: as each of them alone."""
    experiments = [
        dataclasses.replace(experiment_of("gru", seeds=1), agent=dataclasses.replace(PPO, learning_rate=rate))
        for rate in (1e-3, 1e-2)
    ]
    expected = [train(experiment, Layout())[0] for experiment in experiments]
    group = Group(tuple(experiments), "data=4,seed=2")
    states = group.join([group.first_states()] * 2)
    states, _ = compile_chunk(group.update, group.seeds, states, group.layout)(states, UPDATES)
    for i, one in enumerate(expected):
        check_same(plain(group.part(group.layout.gather(states), i)), one)


def check_resume():
    """A run that was stopped on one mesh goes on with another one; its checkpoint can be read on one device."""
    experiment = experiment_of("gru")
    part = dataclasses.replace(experiment, total_steps=experiment.agent.steps_per_update)
    parts = {"whole": [("data=8", experiment)], "parts": [("data=4,seed=2", part), ("data=8", experiment)]}
    with tempfile.TemporaryDirectory() as folder:
        for name, steps in parts.items():
            for i, (mesh, some) in enumerate(steps):
                run(some, Path(folder) / name, RunOptions(mesh=mesh, resume=i > 0, track=(), quiet=True))
        states = [
            Checkpoints(RunFolder(Path(folder) / name).checkpoints).restore(
                initial_states(assemble(experiment).agent, experiment)
            )
            for name in ("whole", "parts")
        ]
        assert [s.update for s in states] == [UPDATES] * 2
        check_same(*(plain(s.state) for s in states))
        metrics = [read_metrics(RunFolder(Path(folder) / name).metrics_csv) for name in ("whole", "parts")]
        for name in metrics[0]:
            np.testing.assert_allclose(metrics[0][name], metrics[1][name], rtol=2e-3, atol=2e-5, err_msg=name)


CHECKS = {
    "exchanges gru": partial(check_exchanges, "gru", PPO),
    "exchanges s5": partial(check_exchanges, "s5", PPO),
    "exchanges gtrxl": partial(check_exchanges, "gtrxl", PPO),
    "exchanges grpo": partial(check_exchanges, "gru", GRPO),
    "layouts gru": partial(check_layouts, "gru", PPO),
    "layouts gated_deltanet": partial(check_layouts, "gated_deltanet", PPO),
    "layouts grpo": partial(check_layouts, "gru", GRPO),
    "defaults": check_defaults,
    "mistakes": check_mistakes,
    "groups": check_groups,
    "resume": check_resume,
}

if __name__ == "__main__":
    assert jax.device_count() == 8
    for name in sys.argv[1:] or CHECKS:
        CHECKS[name]()
        print(name, flush=True)
