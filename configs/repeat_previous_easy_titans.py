"""RepeatPreviousEasy with one layer of Titans' neural memory.

command   memrl train configs/repeat_previous_easy_titans.py
hardware  2 cores of an AMD EPYC (shared machine)
time      112 s, of it 16 s for compiling
score     return 1.00 greedy, 1.00 sampled (best 1.00)
"""

from memrl import Experiment, NetworkConfig, PPOConfig, TitansConfig

experiment = Experiment(
    env="popgym/RepeatPreviousEasy",
    core=TitansConfig(),
    network=NetworkConfig(features=128, encoder_sizes=(), head_sizes=(64,)),
    agent=PPOConfig(num_envs=64, num_steps=128, minibatches=8, learning_rate=1e-3, schedule="linear"),
    total_steps=1_000_000,
    best_return=1.0,
    chance_return=-0.5,
)
