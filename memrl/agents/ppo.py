"""PPO for recurrent agents (Schulman et al. 2017), end to end in one program.

An update collects T steps of B environments, computes advantages, and for several epochs takes gradient steps on
minibatches of whole sequences, which are replayed through the memory from the state they were collected with. A
sequence is an environment's T steps, or with `chunk_length` a contiguous part of them; gradients do not cross chunks.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax

from memrl.agents.base import AgentConfig
from memrl.agents.normaliser import Moments, init_moments, normalise, update_moments
from memrl.agents.parameters import descend, flatten
from memrl.agents.returns import Advantages, generalised_advantages
from memrl.agents.rollout import Episodes, Rollout, collect, init_rollout, to_sequences
from memrl.errors import check
from memrl.networks import ActorCritic
from memrl.networks.metrics import Metrics
from memrl.types import Array, Key, Observation, State, Trajectory, Transition


@dataclasses.dataclass(frozen=True)
class PPOConfig(AgentConfig):
    """Hyperparameters of PPO."""

    owner: ClassVar[str] = "ppo"

    epochs: int = 4
    """Passes over each rollout."""
    minibatches: int = 8
    """Gradient steps per epoch."""
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
    entropy_weight: float = 0.01
    """Weight of the entropy bonus."""
    normalise_advantages: bool = True
    """Whether each minibatch's advantages are brought to mean 0 and deviation 1."""
    learning_rate: float = 3e-4
    """Adam's step size, the highest of the schedule."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls to zero over the run."""
    warmup: float = 0.0
    """Fraction of the run during which the learning rate rises from zero."""
    max_gradient_norm: float = 0.5
    """Gradients longer than this are scaled back."""
    adam_epsilon: float = 1e-5
    """Adam's epsilon."""
    adam_beta1: float = 0.9
    """Decay of Adam's mean of gradients."""
    adam_beta2: float = 0.999
    """Decay of Adam's mean of squared gradients; a solved policy meets rare large gradients, which move it too far when
    this is much slower than `adam_beta1`. On T-maze 0.99 for both makes that collapse rare; it does not rule it out."""
    target_kl: float | None = None
    """An update ends after the first gradient step whose approximate KL divergence exceeds this."""
    normalise_observations: bool = False
    """Whether observations are brought to running mean 0 and deviation 1."""
    normalise_rewards: bool = False
    """Whether rewards are divided by the running deviation of the discounted return."""

    def check(self) -> None:
        """Raises `MemrlError` for impossible sizes and values out of range."""
        for name in ("num_envs", "num_steps", "epochs", "minibatches"):
            check(getattr(self, name) >= 1, f"ppo: {name} is {getattr(self, name)}, expected at least 1")
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
        for name in ("discount", "trace"):
            value = getattr(self, name)
            check(0 <= value <= 1, f"ppo: {name} is {value}, expected between 0 and 1")
        for name in ("adam_beta1", "adam_beta2"):
            value = getattr(self, name)
            check(0 <= value < 1, f"ppo: {name} is {value}, expected at least 0 and less than 1")
        self.check_positive("clip", "learning_rate", "max_gradient_norm", "adam_epsilon", "value_clip", "target_kl")
        check(0 <= self.warmup < 1, f"ppo: warmup is {self.warmup}, expected at least 0 and less than 1")

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


class GradientStep(NamedTuple):
    """What a gradient step reports, scalars, and sums of them."""

    losses: Losses
    metrics: Metrics  # of the memory, zero where not measured
    measured: Array  # 1, until after the first step that was not finite: all that follow it are bad for that reason
    gradient_norm: Array
    nonfinite: Array  # 1 where loss, gradient or a metric of the memory is NaN or infinite
    steps: Array  # 1


@dataclasses.dataclass(frozen=True)
class PPO:
    """PPO on one environment; see `memrl.agents.base.Agent`."""

    env: Any  # a gymnax environment, stepped under vmap
    env_params: Any
    make_network: Callable[[nnx.Rngs], ActorCritic]
    config: PPOConfig
    num_updates: int  # of the whole run, over which schedules run

    def init(self, key: Key) -> TrainState:
        """The train state before the first update: new parameters and environments, from `key`."""
        params_key, env_key, run_key = jax.random.split(key, 3)
        graphdef, params = self._init_network(params_key)
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
        params, optimiser, losses = self._learn(state, batch, shuffle_key)
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

    def network(self, state: TrainState) -> ActorCritic:
        """The network with the state's parameters."""
        graphdef, _ = jax.eval_shape(self._init_network, state.key)
        return nnx.merge(graphdef, state.params)

    def see(self, state: TrainState, observation: Observation) -> Observation:
        """What the network sees of an observation [..., *shape]: its normalisation, if any."""
        return observation if state.observations is None else normalise(state.observations, observation)

    @functools.cached_property
    def _init_network(self) -> Callable[[Key], tuple[nnx.GraphDef[ActorCritic], nnx.State]]:
        """The network's structure and new parameters; jitted, so that it is traced only once."""
        return jax.jit(lambda key: nnx.split(self.make_network(nnx.Rngs(key))))

    @functools.cached_property
    def optimiser(self) -> optax.GradientTransformation:
        """Clipping and Adam on a flat vector, of step size 1: the learning rate belongs to the update."""
        return optax.chain(
            optax.clip_by_global_norm(self.config.max_gradient_norm),
            optax.scale_by_adam(self.config.adam_beta1, self.config.adam_beta2, self.config.adam_epsilon),
        )

    def learning_rate(self, update: Array) -> Array:
        """The step size of an update."""
        config = self.config
        warmup = config.warmup * self.num_updates
        rest = (update - warmup) / max(1.0, self.num_updates - warmup)
        fall = {
            "constant": jnp.ones_like(rest),
            "linear": 1 - rest,
            "cosine": 0.5 + 0.5 * jnp.cos(jnp.pi * rest),
        }[config.schedule]
        rise = jnp.minimum(1, (update + 1) / max(1.0, warmup))
        return config.learning_rate * jnp.where(update < warmup, rise, fall)

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

    def _learn(self, state: TrainState, batch: Batch, key: Key) -> tuple[nnx.State, optax.OptState, dict[str, Array]]:
        """All epochs' gradient steps; the losses are means over those that were taken."""
        config = self.config
        sequences = config.minibatches * config.sequences_per_minibatch
        # A sort of random bits is a permutation, and compiles in a fraction of jax.random.permutation's time.
        orders = jnp.argsort(jax.random.bits(key, (config.epochs, sequences)), axis=-1)
        minibatches = orders.reshape(config.epochs * config.minibatches, -1)
        learning_rate = self.learning_rate(state.update)

        def gradient_step(carry, chosen):
            params, optimiser, _, totals = carry
            gradient, (losses, metrics) = jax.grad(self._loss, has_aux=True)(params, state, select(batch, chosen))
            gradient = flatten(gradient)
            norm = jnp.linalg.norm(gradient)  # shares its kernels with the clipping in `optimiser`
            direction, optimiser = self.optimiser.update(gradient, optimiser)
            params = descend(params, direction, learning_rate)
            finite = [jnp.isfinite(x) for x in (losses.loss, norm, *metrics.values())]
            nonfinite = ~functools.reduce(jnp.logical_and, finite)
            measured = totals.nonfinite == 0
            metrics = {name: jnp.where(measured, x, 0) for name, x in metrics.items()}
            stop = False if config.target_kl is None else losses.approximate_kl > config.target_kl
            report = GradientStep(
                losses=losses,
                metrics=metrics,
                measured=measured.astype(jnp.float32),
                gradient_norm=norm,
                nonfinite=nonfinite.astype(jnp.float32),
                steps=jnp.float32(1),
            )
            return params, optimiser, jnp.asarray(stop), jax.tree.map(jnp.add, totals, report)

        def step(carry, chosen):
            if config.target_kl is None:
                return gradient_step(carry, chosen), None
            return lax.cond(carry[2], lambda c, _: c, gradient_step, carry, chosen), None

        zero = jnp.float32(0)
        no_metrics = {name: jnp.float32(0) for name in self.network(state).metrics}
        nothing = GradientStep(Losses(*[zero] * len(Losses._fields)), no_metrics, zero, zero, zero, zero)
        start = (state.params, state.optimiser, jnp.asarray(False), nothing)
        (params, optimiser, _, totals), _ = lax.scan(step, start, minibatches)
        means = totals.losses._asdict() | {"gradient_norm": totals.gradient_norm}
        means = {name: total / totals.steps for name, total in means.items()}
        means |= {name: total / totals.measured for name, total in totals.metrics.items()}
        return params, optimiser, means | {"gradient_steps": totals.steps, "nonfinite_steps": totals.nonfinite}

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
            approximate_kl=jnp.mean(jnp.expm1(log_ratio) - log_ratio),
            clip_fraction=jnp.mean(jnp.abs(jnp.expm1(log_ratio)) > config.clip),
        )
        return loss, (losses, output.metrics)


def clipped_policy_loss(log_ratio: Array, advantage: Array, clip: float) -> Array:
    """-min(ratio A, clip(ratio, 1 - clip, 1 + clip) A), elementwise (Schulman et al. 2017, equation 7)."""
    ratio = jnp.exp(log_ratio)
    return -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage)


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
    states = jax.tree.map(lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]), trajectory.chunk_states)
    return Batch(transitions, advantages, states)


def select(batch: Batch, chosen: Array) -> Batch:
    """The sequences with the indices `chosen` [K]."""
    return Batch(
        *jax.tree.map(lambda x: jnp.take(x, chosen, axis=1, mode="clip"), (batch.transitions, batch.advantages)),
        states=jax.tree.map(lambda x: jnp.take(x, chosen, axis=0, mode="clip"), batch.states),
    )
