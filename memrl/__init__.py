"""Reinforcement learning with recurrent memory, end to end in JAX."""

from memrl.agents import PPOConfig, list_agents
from memrl.cores import (
    CoreConfig,
    GMUConfig,
    GRUConfig,
    GTrXLConfig,
    LSTMConfig,
    MemoryCore,
    MLPConfig,
    S5Config,
    WindowAttentionConfig,
    core_config,
    list_cores,
    make_core,
)
from memrl.envs import list_envs, make_env
from memrl.errors import MemrlError
from memrl.experiment import Experiment, TrainResult, assemble, make_train, seed_keys
from memrl.networks import ActorCritic, NetworkConfig, StackConfig

__all__ = [
    "ActorCritic",
    "CoreConfig",
    "Experiment",
    "GMUConfig",
    "GRUConfig",
    "GTrXLConfig",
    "LSTMConfig",
    "MLPConfig",
    "MemoryCore",
    "MemrlError",
    "NetworkConfig",
    "PPOConfig",
    "S5Config",
    "StackConfig",
    "TrainResult",
    "WindowAttentionConfig",
    "assemble",
    "core_config",
    "list_agents",
    "list_cores",
    "list_envs",
    "make_core",
    "make_env",
    "make_train",
    "seed_keys",
]
