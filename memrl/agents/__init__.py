"""Agents: one file per algorithm, all registered here."""

from collections.abc import Callable
from typing import NamedTuple

from memrl.agents.base import Agent, AgentConfig
from memrl.agents.grpo import GRPO, GRPOConfig
from memrl.agents.ppo import PPO, PPOConfig
from memrl.errors import MemrlError
from memrl.registry import Registry


class AgentSpec(NamedTuple):
    """What the registry knows of an algorithm."""

    agent: Callable[..., Agent]
    config: type[AgentConfig]


AGENTS: Registry[AgentSpec] = Registry("agent")
AGENTS.register("ppo", AgentSpec(PPO, PPOConfig))
AGENTS.register("grpo", AgentSpec(GRPO, GRPOConfig))


def list_agents() -> tuple[str, ...]:
    """The names of all registered agents, sorted."""
    return tuple(sorted(AGENTS))


def agent_name(config: AgentConfig) -> str:
    """The registered name of the algorithm that `config` belongs to."""
    for name, spec in AGENTS.items():
        if type(config) is spec.config:
            return name
    raise MemrlError(f"agent is a {type(config).__name__}, expected the configuration of one of {list_agents()}")
