"""PositionOnlyCartPoleEasy: balance a pole without seeing velocities.

    memrl train benchmarks/tasks/position_only_cartpole.py --core s5 --match parameters=100k

One of the tasks on which benchmarks/learning.py compares the cores: two layers with a feed-forward network each.
"""

from memrl import Experiment, GRUConfig, NetworkConfig, PPOConfig, StackConfig

experiment = Experiment(
    env="popgym/PositionOnlyCartPoleEasy",
    core=GRUConfig(),
    network=NetworkConfig(encoder_sizes=(), head_sizes=(64,), stack=StackConfig(layers=2, feed_forward=128)),
    agent=PPOConfig(
        num_envs=64,
        num_steps=128,
        minibatches=8,
        learning_rate=1e-3,
        schedule="linear",
    ),
    total_steps=1_000_000,
    best_return=1.0,
)
