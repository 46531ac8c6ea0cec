"""Associative recall: four pairs of key and value are shown, then the value of every key is asked for.

    memrl train benchmarks/tasks/associative_recall.py --core s5 --match parameters=100k

One of the tasks on which benchmarks/learning.py compares the cores: two layers with a feed-forward network each.
"""

from memrl import Experiment, GRPOConfig, GRUConfig, NetworkConfig, StackConfig

experiment = Experiment(
    env="memory/AssociativeRecall",
    env_options={"num_pairs": 4, "num_queries": 4},
    core=GRUConfig(),
    network=NetworkConfig(encoder_sizes=(), head_sizes=(64,), stack=StackConfig(layers=2, feed_forward=128)),
    agent=GRPOConfig(  # attempts at the same question tell right from wrong far sooner than a critic does
        num_envs=64,
        num_steps=48,  # four episodes, or two of eight pairs
        group_size=16,
        minibatches=4,
        credit="step",
        discount=0.0,  # what an action earns is known at once
        learning_rate=3e-3,
        schedule="linear",
    ),
    total_steps=1_000_000,
    best_return=1.0,
    chance_return=0.125,
)
