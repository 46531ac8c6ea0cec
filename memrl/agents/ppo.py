"""PPO for recurrent agents (Schulman et al. 2017), end to end in one program.

An update collects T steps of B environments, computes advantages, and for several epochs takes gradient steps on
minibatches of whole sequences, which are replayed through the memory from the state they were collected with. A
sequence is an environment's T steps, or with `chunk_length` a contiguous part of them; gradients do not cross chunks.
"""

import dataclasses
import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax

from memrl.agents.minibatches import take
from memrl.agents.normaliser import Moments, init_moments, update_moments
from memrl.agents.parameters import flatten
from memrl.agents.policy_gradient import (
    PolicyGradientAgent,
    PolicyGradientConfig,
    approximate_kl,
    clipped_policy_loss,
)
from memrl.agents.returns import Advantages, generalised_advantages
from memrl.agents.rollout import Episodes, Rollout, collect, init_rollout, to_sequences
from memrl.errors import check
from memrl.networks.metrics import Metrics
from memrl.types import Array, Key, State, Trajectory, Transition


@dataclasses.dataclass(frozen=True)
class PPOConfig(PolicyGradientConfig):
    """Hyperparameters of PPO."""

    owner: ClassVar[str] = "ppo"
    numbers: ClassVar[tuple[str, ...]] = (
        *PolicyGradientConfig.numbers,
        *("discount", "trace", "clip", "value_clip", "value_weight"),
    )

    chunk_length: int | None = None
    """Length C of the sequences that minibatches are made of; a divisor of num_steps, all of it when not given."""
    discount: float = 0.99
    """Discount gamma."""
    trace: float = 0.95
    """Decay lambda of generalised advantage estimation."""
    clip: float = 0.2
    """How far the importance ratio counts."""
    value_clip: float | None = None
    """How far the value may move from the rollout's; not limited when not given."""
    value_weight: float = 0.5
    """Weight of the value loss."""
    normalise_advantages: bool = True
    """Whether each minibatch's advantages are brought to mean 0 and deviation 1."""
    normalise_rewards: bool = False
    """Whether rewards are divided by the running deviation of the discounted return."""

    def check(self) -> None:
        """Raises `MemrlError` for impossible sizes and values out of range."""
        super().check()
        length = self.num_steps if self.chunk_length is None else self.chunk_length
        check(
            1 <= length <= self.num_steps and self.num_steps % length == 0,
            f"ppo: chunk_length is {length}, expected a divisor of num_steps = {self.num_steps}",
        )
        sequences = self.num_envs * (self.num_steps // length)
        check(
            sequences % self.minibatches == 0,
            f"ppo: minibatches is {self.minibatches}, expected a divisor of the {sequences} sequences of a rollout "
            f"({self.num_envs} environments x {self.num_steps // length} chunks)",
        )
        self.check_fraction("discount", "trace")
        self.check_positive("clip", "value_clip")

    @property
    def parts(self) -> int:
        """See `AgentConfig.parts`."""
        return math.gcd(self.num_envs, self.sequences_per_minibatch)

    @property
    def sequence_length(self) -> int:
        """Steps C that are replayed at a stretch."""
        return self.chunk_length or self.num_steps

    @property
    def sequences_per_minibatch(self) -> int:
        """Sequences in a minibatch."""
        return self.steps_per_update // self.sequence_length // self.minibatches


class ReturnMoments(NamedTuple):
    """The running discounted return of each environment, and the moments of all of them so far."""

    running: Array  # [B]
    moments: Moments  # of a scalar


class TrainState(NamedTuple):
    """Everything that a run needs to go on."""

    params: nnx.State
    optimiser: optax.OptState
    rollout: Rollout
    observations: Moments | None  # where observations are normalised
    returns: ReturnMoments | None  # where rewards are normalised
    key: Key  # of the whole run; update u draws from fold_in(key, 2 u) and fold_in(key, 2 u + 1)
    update: Array  # [] int32, updates done


class Batch(NamedTuple):
    """Sequences to learn from."""

    transitions: Transition  # leaves [C, K, ...]
    advantages: Advantages  # leaves [C, K]
    states: State  # leaves [K, ...], recurrent state before each sequence


class Losses(NamedTuple):
    """The parts of the loss and what goes with them, scalars."""

    loss: Array
    policy_loss: Array
    value_loss: Array
    entropy: Array
    approximate_kl: Array
    clip_fraction: Array


@dataclasses.dataclass(frozen=True)
class PPO(PolicyGradientAgent):
    """PPO on one environment; see `memrl.agents.base.Agent`."""

    config: PPOConfig

    def init(self, key: Key) -> TrainState:
        """The train state before the first update: new parameters and environments, from `key`."""
        params_key, env_key, run_key = jax.random.split(key, 3)
        graphdef, params = self.init_network(params_key)
        network = nnx.merge(graphdef, params)
        rollout = init_rollout(self.env, self.env_params, network, self.config.num_envs, env_key)
        one_observation = jax.tree.map(lambda x: x[0], rollout.observation)
        running = jnp.zeros(self.config.num_envs)
        return TrainState(
            params=params,
            optimiser=self.optimiser.init(flatten(params)),
            rollout=rollout,
            observations=init_moments(one_observation) if self.config.normalise_observations else None,
            returns=(ReturnMoments(running, init_moments(running[0])) if self.config.normalise_rewards else None),
            key=run_key,
            update=jnp.int32(0),
        )

    def has_environments(self, state: TrainState) -> TrainState:
        """See `memrl.agents.base.Agent`."""
        marks = jax.tree.map(lambda _: False, state)
        returns = None if marks.returns is None else marks.returns._replace(running=True)
        return marks._replace(rollout=jax.tree.map(lambda _: True, state.rollout), returns=returns)

    def update(self, state: TrainState) -> tuple[TrainState, dict[str, Array]]:
        """Collects a rollout and learns from it."""
        config = self.config
        collect_key, shuffle_key = jax.vmap(jax.random.fold_in, (None, 0))(state.key, 2 * state.update + jnp.arange(2))
        rollout, trajectory, episodes = self.collect(state, collect_key)
        transitions = trajectory.transitions
        reward, returns = self._scale_rewards(state.returns, transitions)
        advantages = generalised_advantages(
            reward,
            transitions.value,
            transitions.terminated,
            transitions.truncated,
            transitions.final_value,
            trajectory.last_value,
            config.discount,
            config.trace,
        )
        batch = make_batch(trajectory, advantages, config.sequence_length)

        def loss(params: nnx.State, chosen: Array) -> tuple[Array, tuple[Losses, Metrics]]:
            return self._loss(params, state, select(batch, chosen))

        sequences = config.minibatches * config.sequences_per_minibatch
        params, optimiser, losses = self.learn(state, loss, Losses, sequences, shuffle_key)
        observations = state.observations
        if observations is not None:  # only now, so that the replay saw what the rollout saw
            observations = update_moments(observations, transitions.observation, batch_axes=2)
        metrics = {
            "episode_return": episodes.mean_return,
            "episode_length": episodes.mean_length,
            "episodes": episodes.ended,
            **losses,
            "explained_variance": explained_variance(transitions.value, advantages.value_target),
            "learning_rate": self.learning_rate(state.update),
        }
        return TrainState(params, optimiser, rollout, observations, returns, state.key, state.update + 1), metrics

    def collect(self, state: TrainState, key: Key) -> tuple[Rollout, Trajectory, Episodes]:
        """T steps of B environments under the state's policy."""
        return collect(
            self.env,
            self.env_params,
            self.network(state),
            lambda observation: self.see(state, observation),
            state.rollout,
            key,
            self.config.num_steps,
            self.config.sequence_length,
        )

    def _scale_rewards(
        self, returns: ReturnMoments | None, transitions: Transition
    ) -> tuple[Array, ReturnMoments | None]:
        """Rewards [T, B], divided by the deviation of the discounted return if that is wanted."""
        if returns is None:
            return transitions.reward, None

        def accumulate(running, inputs):
            reward, done = inputs
            running = self.config.discount * running + reward
            return jnp.where(done, 0, running), running

        done = transitions.terminated | transitions.truncated
        running, seen = lax.scan(accumulate, returns.running, (transitions.reward, done))
        moments = update_moments(returns.moments, seen, batch_axes=2)
        scaled = transitions.reward * lax.rsqrt(moments.variance + 1e-8)
        return jnp.clip(scaled, -10, 10), ReturnMoments(running, moments)

    def _loss(self, params: nnx.State, state: TrainState, batch: Batch) -> tuple[Array, tuple[Losses, Metrics]]:
        """PPO's loss on a batch of sequences, replayed from their starting states, and what the memory measured."""
        config = self.config
        transitions = batch.transitions
        network = self.network(state._replace(params=params))
        seen = self.see(state, transitions.observation)
        _, output = network.unroll(batch.states, seen, transitions.reset)
        log_ratio = jnp.asarray(output.policy.log_prob(transitions.action)) - transitions.log_prob
        advantage = batch.advantages.advantage
        if config.normalise_advantages:
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        policy_loss = clipped_policy_loss(log_ratio, advantage, config.clip).mean()
        value_loss = clipped_value_loss(
            output.value, transitions.value, batch.advantages.value_target, config.value_clip
        ).mean()
        entropy = output.policy.entropy().mean()
        loss = policy_loss + config.value_weight * value_loss - config.entropy_weight * entropy
        losses = Losses(
            loss=loss,
            policy_loss=policy_loss,
            value_loss=value_loss,
            entropy=entropy,
            approximate_kl=approximate_kl(log_ratio).mean(),
            clip_fraction=jnp.mean(jnp.abs(jnp.expm1(log_ratio)) > config.clip),
        )
        return loss, (losses, output.metrics)


def clipped_value_loss(value: Array, old_value: Array, target: Array, clip: float | None) -> Array:
    """Half the squared error, elementwise; with `clip` the larger of it and of a value moved by at most `clip`."""
    loss = jnp.square(value - target)
    if clip is not None:
        near = old_value + jnp.clip(value - old_value, -clip, clip)
        loss = jnp.maximum(loss, jnp.square(near - target))
    return 0.5 * loss


def explained_variance(value: Array, target: Array) -> Array:
    """1 - Var(target - value) / Var(target): 1 for a perfect critic, 0 for a constant; NaN for a constant target."""
    variance = jnp.var(target)
    return jnp.where(variance > 0, 1 - jnp.var(target - value) / variance, jnp.nan)


def make_batch(trajectory: Trajectory, advantages: Advantages, chunk_length: int) -> Batch:
    """A trajectory as its contiguous sequences of `chunk_length` steps, each with the state it started from."""
    transitions, advantages = jax.tree.map(
        lambda x: to_sequences(x, chunk_length), (trajectory.transitions, advantages)
    )
    states = jax.tree.map(
        lambda x: jnp.swapaxes(x, 0, 1).reshape(x.shape[0] * x.shape[1], *x.shape[2:]), trajectory.chunk_states
    )
    return Batch(transitions, advantages, states)


def select(batch: Batch, chosen: Array) -> Batch:
    """The sequences of a minibatch."""
    return Batch(
        *jax.tree.map(lambda x: take(x, chosen, axis=1), (batch.transitions, batch.advantages)),
        states=jax.tree.map(lambda x: take(x, chosen, axis=0), batch.states),
    )
