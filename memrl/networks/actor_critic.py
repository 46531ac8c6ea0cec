"""The network of an agent: encoder, memory, policy and value."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import distrax
from flax import nnx

from memrl.config import Config
from memrl.cores import CoreConfig
from memrl.errors import check
from memrl.networks.encoders import Encoder
from memrl.networks.heads import PolicyHead, ValueHead
from memrl.networks.layers import Activation
from memrl.networks.metrics import Metrics, means_by_name, names_in
from memrl.networks.stack import MemoryStack, StackConfig
from memrl.spaces import Space
from memrl.types import Array, Observation, State


@dataclasses.dataclass(frozen=True)
class NetworkConfig(Config):
    """Sizes of the network round the memory."""

    owner: ClassVar[str] = "network"

    features: int = 128
    """Width D of the encoder's last layer and of the memory."""
    encoder_sizes: tuple[int, ...] = (128,)
    """Widths of the encoder's layers before the last."""
    head_sizes: tuple[int, ...] = (128,)
    """Widths of the hidden layers of the policy's and of the value's head."""
    activation: Activation = "relu"
    """Nonlinearity of encoder and heads."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What the network computes in. Parameters, recurrent state, outputs and optimiser are float32 in any case."""
    critic: Literal["shared", "separate"] = "shared"
    """Whether the value shares encoder and memory with the policy."""
    stack: StackConfig = StackConfig()
    """The layers round the memory core."""
    previous_action: bool = False
    """Whether the agent sees its previous action."""
    previous_reward: bool = False
    """Whether the agent sees its previous reward."""
    episode_start: bool = False
    """Whether the agent sees that an observation is the first of an episode."""

    def check(self) -> None:
        """Raises `MemrlError` for a width below one."""
        for name in ("encoder_sizes", "head_sizes"):
            sizes = getattr(self, name)
            check(all(n >= 1 for n in sizes), f"network: {name} is {sizes}, expected widths of 1 or more each")
        check(self.features >= 1, f"network: features is {self.features}, expected at least 1")


class Output(NamedTuple):
    """What the network says of an observation."""

    policy: distrax.Distribution  # batch shape [...]
    value: Any  # [...]; None of a network without a critic
    metrics: Metrics  # scalars by the network's `metrics`, of an unroll; none of a step


class ActorCritic(nnx.Module):
    """Policy and value on top of one memory, or of one each; the state is that of the memory, or of both.

    Without `critic` there is no value.
    """

    def __init__(
        self,
        observation_space: Space,
        action_space: Space,
        cores: Sequence[CoreConfig],
        config: NetworkConfig = NetworkConfig(),
        *,
        critic: bool = True,
        rngs: nnx.Rngs,
    ):
        separate = config.critic == "separate"
        check(critic or not separate, "network: critic is 'separate', expected 'shared': the agent learns no values")
        self.actor = Torso(observation_space, cores, config, rngs=rngs)
        self.critic = Torso(observation_space, cores, config, rngs=rngs) if separate else None
        heads = (config.features, config.head_sizes, config.activation)
        self.policy = PolicyHead(action_space, *heads, rngs=rngs)
        self.value = ValueHead(*heads, rngs=rngs) if critic else None

    @property
    def torsos(self) -> list["Torso"]:
        """One or two."""
        return [self.actor] if self.critic is None else [self.actor, self.critic]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of what the memory measures in an unroll."""
        return names_in(torso.memory.metrics for torso in self.torsos)

    def initial_state(self, batch_size: int) -> State:
        """The recurrent state at the start of an episode, leaves [B, ...]."""
        return tuple(torso.memory.initial_state(batch_size) for torso in self.torsos)

    def step(self, state: State, observation: Observation, reset: Array) -> tuple[State, Output]:
        """One step: observations [B, ...] and `reset` [B] give the next state and the output, [B]."""
        return self._apply("step", state, observation, reset)

    def unroll(self, state: State, observations: Observation, resets: Array) -> tuple[State, Output]:
        """T steps: observations [T, B, ...] and `resets` [T, B] give the last state and the outputs, [T, B]."""
        return self._apply("unroll", state, observations, resets)

    def environment_action(self, action: Array) -> Array:
        """A sampled action as the environment takes it."""
        return self.policy.environment_action(action)

    def without_critic(self) -> "Actor":
        """What acting needs: the same policy, of the same parameters."""
        return Actor(self.actor, self.policy)

    def _apply(self, mode: str, state: State, observation: Observation, reset: Array) -> tuple[State, Output]:
        runs = [torso.run(mode, s, observation, reset) for torso, s in zip(self.torsos, state, strict=True)]
        states, features, metrics = zip(*runs, strict=True)
        value = self.value(features[-1]) if self.value else None
        return states, Output(self.policy(features[0]), value, means_by_name(metrics))


class Actor(nnx.Module):
    """A policy on top of a memory."""

    def __init__(self, torso: "Torso", policy: PolicyHead):
        self.torso, self.policy = torso, policy

    def initial_state(self, batch_size: int) -> State:
        """The recurrent state at the start of an episode, leaves [B, ...]."""
        return self.torso.memory.initial_state(batch_size)

    def step(self, state: State, observation: Observation, reset: Array) -> tuple[State, distrax.Distribution]:
        """One step: observations [B, ...] and `reset` [B] give the next state and the policy, of batch shape [B]."""
        state, features, _ = self.torso.run("step", state, observation, reset)
        return state, self.policy(features)


class Torso(nnx.Module):
    """Encoder and memory."""

    def __init__(self, space: Space, cores: Sequence[CoreConfig], config: NetworkConfig, *, rngs: nnx.Rngs):
        sizes = (*config.encoder_sizes, config.features)
        self.encoder = Encoder(space, sizes, config.activation, config.precision, rngs=rngs)
        self.memory = MemoryStack(config.features, cores, config.stack, rngs=rngs)

    def run(self, mode: str, state: State, observation: Observation, reset: Array) -> tuple[State, Array, Metrics]:
        """Features D of one step or, with `mode` "unroll", of T steps, and what the memory measured in these."""
        if mode == "step":
            return *self.memory.step(state, self.encoder(observation), reset), {}
        state, features, extras = self.memory.unroll_with_extras(state, self.encoder(observation), reset)
        return state, features, extras.metrics
