"""T-maze with a corridor of 100 steps: remember a cue for the whole way.

    memrl train benchmarks/tasks/tmaze.py --core s5 --match parameters=100k

One of the tasks on which benchmarks/learning.py compares the cores: two layers with a feed-forward network each.
"""

from memrl import Experiment, GRUConfig, NetworkConfig, PPOConfig, StackConfig

experiment = Experiment(
    env="memory/TMaze",
    env_options={"length": 100},
    core=GRUConfig(),
    network=NetworkConfig(encoder_sizes=(), head_sizes=(64,), stack=StackConfig(layers=2, feed_forward=128)),
    agent=PPOConfig(
        num_envs=64,
        num_steps=128,
        minibatches=8,
        learning_rate=1e-3,
        schedule="linear",
        entropy_weight=0.03,  # with less of it the turn is forgotten while the way is learned
    ),
    total_steps=1_000_000,
    best_return=1.0,
    chance_return=0.5,
)
