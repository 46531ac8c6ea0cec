"""draft"""

from memrl import Experiment, GRUConfig, NetworkConfig, PPOConfig

experiment = Experiment(
    env="popgym/RepeatPreviousEasy",
    core=GRUConfig(),
    network=NetworkConfig(features=128, encoder_sizes=(), head_sizes=(64,)),
    agent=PPOConfig(num_envs=64, num_steps=64, minibatches=4, learning_rate=1e-3, schedule="linear"),
    total_steps=500_000,
    seeds=4,
    best_return=1.0,
    chance_return=-0.5,
)
