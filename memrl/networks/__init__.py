"""Networks: encoders, the residual stack round a core, heads, and the actor-critic made of them."""

from memrl.networks.actor_critic import Actor, ActorCritic, NetworkConfig, Output
from memrl.networks.shared_prefix import repeat_rows, rows_alike, unroll_groups
from memrl.networks.stack import MemoryStack, StackConfig

__all__ = [
    "Actor",
    "ActorCritic",
    "MemoryStack",
    "NetworkConfig",
    "Output",
    "StackConfig",
    "repeat_rows",
    "rows_alike",
    "unroll_groups",
]
