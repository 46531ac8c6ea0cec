"""draft"""

from memrl import Experiment, GRUConfig, NetworkConfig, PPOConfig

experiment = Experiment(
    env="popgym/RepeatPreviousEasy",
    core=GRUConfig(),
    network=NetworkConfig(features=128, encoder_sizes=(), head_sizes=(64,)),
    agent=PPOConfig(num_envs=64, num_steps=64, learning_rate=1e-3, minibatches=4, schedule="linear"),
    total_steps=1_500_000,
    best_return=1.0,
)
