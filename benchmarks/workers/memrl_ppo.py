"""memrl's PPO with the core that is named on the command line."""

import gc
import sys
import time

import jax
from turns import take_turns

from memrl import Experiment, NetworkConfig, PPOConfig, StackConfig, core_config
from memrl.experiment import assemble
from memrl.runner.program import compile_chunk, initial_states

core = sys.argv[1]
stack = StackConfig(layers=4) if core == "s5" else StackConfig(norm="none", residual="none")
experiment = Experiment(
    env="popgym/PositionOnlyCartPoleEasy",
    core=core_config(core),
    network=NetworkConfig(features=256, encoder_sizes=(128,), head_sizes=(128, 128), stack=stack),
    agent=PPOConfig(num_envs=64, num_steps=128, epochs=4, minibatches=8),
)
jax.devices()  # JAX starts its back end
gc.freeze()  # as the command line does
started = time.perf_counter()
agent = assemble(experiment).agent
states = jax.block_until_ready(initial_states(agent, experiment))
run_chunk = compile_chunk(agent.update, 1, states)
compile_seconds = time.perf_counter() - started


def update() -> None:
    global states
    states, _ = run_chunk(states, 1)
    jax.block_until_ready(states)


update()
parameters = sum(x.size for x in jax.tree.leaves(states.params))
take_turns(update, parameters=parameters, compile_seconds=compile_seconds)
