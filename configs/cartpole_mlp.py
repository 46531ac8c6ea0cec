"""draft"""

from memrl import Experiment, MLPConfig, NetworkConfig, PPOConfig

experiment = Experiment(
    env="gymnax/CartPole-v1",
    core=MLPConfig(),
    network=NetworkConfig(features=64, encoder_sizes=(64,), head_sizes=(64,)),
    agent=PPOConfig(num_envs=32, num_steps=128, minibatches=4, learning_rate=1e-3, schedule="linear"),
    total_steps=1_000_000,
    best_return=500.0,
)
