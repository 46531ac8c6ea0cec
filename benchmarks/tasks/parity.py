"""Parity of a stream of bits, asked for at every step: a state to track, which no decaying sum holds.

    memrl train benchmarks/tasks/parity.py --core s5 --match parameters=100k

One of the tasks on which benchmarks/learning.py compares the cores: two layers with a feed-forward network each.
"""

from memrl import Experiment, GRUConfig, NetworkConfig, PPOConfig, StackConfig

experiment = Experiment(
    env="memory/Parity",
    env_options={"length": 31, "every_step": True},
    core=GRUConfig(),
    network=NetworkConfig(encoder_sizes=(), head_sizes=(64,), stack=StackConfig(layers=2, feed_forward=128)),
    agent=PPOConfig(
        num_envs=64,
        num_steps=128,
        minibatches=8,
        learning_rate=3e-3,
        schedule="linear",
        discount=0.9,  # what an action earns is known at once
    ),
    total_steps=1_000_000,
    best_return=1.0,
    chance_return=0.516,
)
