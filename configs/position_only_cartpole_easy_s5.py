"""PositionOnlyCartPoleEasy with one layer of S5: balance a pole without seeing velocities.

command   memrl train configs/position_only_cartpole_easy_s5.py
hardware  2 cores of an AMD EPYC (shared machine)
time      1 minute 30 s
score     return 1.00 greedy, 1.00 sampled (best 1.00)
"""

from memrl import Experiment, NetworkConfig, PPOConfig, S5Config

experiment = Experiment(
    env="popgym/PositionOnlyCartPoleEasy",
    core=S5Config(),
    network=NetworkConfig(features=128, encoder_sizes=(64,), head_sizes=(64,)),
    agent=PPOConfig(num_envs=64, num_steps=128, minibatches=8, learning_rate=1e-3, schedule="linear"),
    total_steps=2_000_000,
    best_return=1.0,
)
