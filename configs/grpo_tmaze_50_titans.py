"""T-maze with a corridor of 50 steps, and a small memory that learns at test time: it holds the cue for 400 steps.

command   memrl train configs/grpo_tmaze_50_titans.py && memrl eval runs/grpo_tmaze_50_titans-titans --env.length 400
hardware  2 cores of an AMD EPYC (shared machine)
score     three seeds, greedy: return 1.00 at 50, 200 and 400 steps (best 1.00)
"""

from memrl import Experiment, GRPOConfig, NetworkConfig, TitansConfig

experiment = Experiment(
    env="memory/TMaze",
    env_options={"length": 50},
    # With decay the walk comes to rely on what has not decayed yet, and ends some hundred steps after the training's.
    core=TitansConfig(width=16, depth=1, retention="none", max_learning_rate=0.03),
    network=NetworkConfig(features=64, encoder_sizes=(), head_sizes=(64,)),
    agent=GRPOConfig(
        num_envs=64,
        num_steps=51,  # one episode
        group_size=16,
        minibatches=4,
        credit="step",
        learning_rate=1e-3,
        schedule="linear",
        entropy_weight=0.05,  # with less of it the turn is forgotten while the way is learned
        adam_beta2=0.99,
    ),
    total_steps=500_000,
    best_return=1.0,
    chance_return=0.5,
)
