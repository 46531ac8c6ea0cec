"""GRPO for recurrent agents (Shao et al. 2024, "DeepSeekMath"): no critic, attempts at the same thing are compared.

An update resets B environments, in groups of G that start alike (`memrl.envs.shared_starts`), and collects T steps. The
return of an episode, less the mean of the same episode in the group and divided by its deviation, is the advantage of
all its steps; or step by step, what is still to come is compared (`credit`). For several epochs gradient steps are
taken on minibatches of whole groups, replayed through the memory from the start.

Environments that finish an episode begin the next within the rollout, all of a group with the same n-th episode,
though not at the same time. An episode that the rollout's end cuts has no return: it teaches nothing, nor do the others
of its number in the group, since to compare those alone that ended early would favour short episodes. With `unfinished`
"count" all of them count, with the rewards they have had.

`GRPOConfig.variant` knows the variants by name: they are the same loss with other choices.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple, Self

import distrax
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from memrl.agents.attempts import (
    Attempts,
    Baseline,
    MeanOver,
    at_steps,
    differ,
    diversity_factors,
    find_attempts,
    in_groups,
    of_group,
    relative,
    returns_to_go,
    same_step,
    serial_factors,
    step_weights,
    total,
    whole_groups,
)
from memrl.agents.minibatches import take
from memrl.agents.normaliser import Moments, init_moments, update_moments
from memrl.agents.parameters import flatten
from memrl.agents.policy_gradient import (
    PolicyGradientAgent,
    PolicyGradientConfig,
    approximate_kl,
    clipped_policy_loss,
)
from memrl.agents.rollout import Episodes, Rollout, collect, init_rollout, sample
from memrl.errors import check, unknown_name
from memrl.networks import Output, rows_alike, unroll_groups
from memrl.networks.metrics import Metrics
from memrl.spaces import Discrete
from memrl.types import Array, Key, Trajectory, Transition

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "grpo": {},
    "dr_grpo": {"scale": False, "mean_over": "constant"},  # Liu et al. 2025, "Understanding R1-Zero-Like Training"
    "dapo": {"clip_high": 0.28, "mean_over": "steps", "drop_equal": True},  # Yu et al. 2025
    "gspo": {"ratio": "episode"},  # Zheng et al. 2025
    "s_grpo": {"serial": True, "scale": False},  # Dai et al. 2025
    "ada_grpo": {"diversity": True},  # Wu et al. 2025, "ARM: Adaptive Reasoning Model"
    "rloo": {"baseline": "leave_one_out", "scale": False},  # Ahmadian et al. 2024, "Back to Basics"
    "reinforce": {"group_size": 1, "baseline": "batch", "scale": False},  # Williams 1992
}

LARGEST_LOG_RATIO = 10.0
PREFIX_ALIKE = "prefix_alike"  # the metric


@dataclasses.dataclass(frozen=True)
class GRPOConfig(PolicyGradientConfig):
    """Hyperparameters of GRPO."""

    owner: ClassVar[str] = "grpo"
    numbers: ClassVar[tuple[str, ...]] = (*PolicyGradientConfig.numbers, "discount", "clip", "clip_high")
    needs_values: ClassVar[bool] = False

    minibatches: int = 4
    """Gradient steps per epoch."""
    group_size: int = 8
    """Environments G that start alike; a divisor of num_envs."""
    shared_chance: bool = True
    """Whether what the environment draws in its steps is the same in a group, not only where episodes start."""
    discount: float = 1.0
    """Discount gamma of returns."""
    credit: Literal["episode", "step"] = "episode"
    """Whether an action's score is the return of its episode, or of what followed it, compared at the same step."""
    baseline: Baseline = "group"
    """What scores are compared with: the mean of the group, of the others in it, of all episodes, or nothing."""
    scale: bool = True
    """Whether advantages are divided by the deviation of the scores that they were compared with."""
    mean_over: MeanOver = "episodes"
    """What weighs alike in the loss: episodes, whatever their length; steps; or with a constant, steps too, but divided
    by num_steps for each episode, so that how long other episodes are does not matter."""
    ratio: Literal["step", "episode"] = "step"
    """Whether each step's importance ratio is clipped, or the geometric mean of an episode's."""
    clip: float = 0.2
    """How far down the importance ratio counts, and up if `clip_high` is not given."""
    clip_high: float | None = None
    """How far up the importance ratio counts."""
    drop_equal: bool = False
    """Whether groups whose scores are all the same are left out of the loss's means."""
    unfinished: Literal["drop", "count"] = "drop"
    """What becomes of episodes that the rollout's end cuts, and of those compared with them."""
    kl_weight: float = 0.0
    """Weight of the divergence from the reference policy."""
    reference_updates: int | None = None
    """Updates after which the reference becomes the policy of that time; always the first policy when not given."""
    serial: bool = False
    """Whether the environments of a group take the same course, and each is made to answer at a time of its own; the
    environment must have actions that answer."""
    serial_after: float = 0.0
    """Fraction of the run after which groups are serial: who answers at random cannot be taught to answer sooner."""
    exits: Literal["forced", "free"] = "forced"
    """Whether environments of a serial group are made to answer, or answer when they like; in the latter case what they
    see must not depend on what they do until then, for them to take the same course."""
    exit_steps: int | None = None
    """Steps of an episode over which these times are spread; num_steps when not given."""
    exit_decay: float = 0.5
    """What a right answer's score is multiplied by for every right answer before it."""
    diversity: bool = False
    """Whether scores of actions that rarely end an episode in the group count more, less so as the run goes on."""
    prefix: int = 0
    """First steps of the rollout in which all of a group see the same, whatever they do; computed once per group."""

    @classmethod
    def variant(cls, name: str, **fields: Any) -> Self:
        """The configuration of the variant with this name, one of `VARIANTS`, with other fields as given."""
        if name not in VARIANTS:
            raise unknown_name("variant of grpo", name, VARIANTS)
        return cls(**{**VARIANTS[name], **fields})

    def check(self) -> None:
        """Raises `MemrlError` for impossible sizes and values out of range."""
        super().check()
        self.check_positive("group_size", "clip", "clip_high", "reference_updates", "exit_steps")
        self.check_fraction("discount", "serial_after", "exit_decay")
        check(
            self.num_envs % self.group_size == 0,
            f"grpo: group_size is {self.group_size}, expected a divisor of num_envs = {self.num_envs}",
        )
        compares = self.baseline in ("group", "leave_one_out") or self.serial or self.diversity or self.drop_equal
        check(self.group_size > 1 or not compares, "grpo: group_size is 1, expected at least 2 to compare with")
        check(
            self.num_groups % self.minibatches == 0,
            f"grpo: minibatches is {self.minibatches}, expected a divisor of the {self.num_groups} groups "
            f"({self.num_envs} environments / group_size {self.group_size})",
        )
        check(
            0 <= self.prefix <= self.num_steps,
            f"grpo: prefix is {self.prefix}, expected between 0 and num_steps = {self.num_steps}",
        )
        check(self.kl_weight >= 0, f"grpo: kl_weight is {self.kl_weight}, expected at least 0")
        check(
            not self.serial or self.shared_chance,
            "grpo: shared_chance is False with serial, expected True: a group takes one course",
        )

    @property
    def num_groups(self) -> int:
        """Groups of environments."""
        return self.num_envs // self.group_size

    @property
    def parts(self) -> int:
        """See `AgentConfig.parts`; a group stays together."""
        return self.num_groups // self.minibatches

    @property
    def shared(self) -> Literal["starts", "chance"]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """See `AgentConfig.shared`."""
        return "chance" if self.shared_chance else "starts"


class TrainState(NamedTuple):
    """Everything that a run needs to go on."""

    params: nnx.State
    reference: nnx.State | None  # where the divergence from it has a weight
    optimiser: optax.OptState
    observations: Moments | None  # where observations are normalised
    key: Key  # of the whole run; update u draws from fold_in(key, 2 u) and fold_in(key, 2 u + 1)
    update: Array  # [] int32, updates done


class Batch(NamedTuple):
    """What a rollout teaches; leaves [T, B, ...]."""

    transitions: Transition
    attempts: Attempts
    advantage: Array
    counts: Array  # bool, the step's episode is part of the loss
    length: Array  # of the step's episode, float32
    reference_log_prob: Array | None  # of the action under the reference


class Losses(NamedTuple):
    """The parts of the loss and what goes with them, scalars."""

    loss: Array
    policy_loss: Array
    reference_kl: Array
    entropy: Array
    approximate_kl: Array
    clip_fraction: Array


@dataclasses.dataclass(frozen=True)
class GRPO(PolicyGradientAgent):
    """GRPO on one environment, a `memrl.envs.shared_starts.SharedStarts`; see `memrl.agents.base.Agent`."""

    config: GRPOConfig

    def __post_init__(self) -> None:
        """Raises `MemrlError` where the environment lacks the actions that the configuration needs."""
        config, env = self.config, self.env
        discrete = isinstance(env.action_space(self.env_params), Discrete)
        check(
            not config.serial or bool(env.answer_actions),
            f"grpo: serial is True for {env.name}, which has no actions that answer; expected one that has, as "
            "memory/EvidenceAccumulation",
        )
        check(
            not config.diversity or discrete,
            f"grpo: diversity is True for {env.name}, expected an environment with Discrete actions",
        )

    def init(self, key: Key) -> TrainState:
        """The train state before the first update: new parameters, from `key`."""
        params_key, env_key, run_key = jax.random.split(key, 3)
        _, params = self.init_network(params_key)
        one_observation, _ = self.env.reset(env_key, self.env_params)
        return TrainState(
            params=params,
            # A copy: a run gives its state's buffers away, and could not give one away twice.
            reference=jax.tree.map(jnp.copy, params) if self.config.kl_weight else None,
            optimiser=self.optimiser.init(flatten(params)),
            observations=init_moments(one_observation) if self.config.normalise_observations else None,
            key=run_key,
            update=jnp.int32(0),
        )

    def has_environments(self, state: TrainState) -> TrainState:
        """See `memrl.agents.base.Agent`: none, since all environments start anew in each update."""
        return jax.tree.map(lambda _: False, state)

    def update(self, state: TrainState) -> tuple[TrainState, dict[str, Array]]:
        """Collects a rollout and learns from it."""
        config = self.config
        state = self._renew_reference(state)
        collect_key, shuffle_key = (jax.random.fold_in(state.key, 2 * state.update + i) for i in range(2))
        _, trajectory, episodes = self.collect(state, collect_key)
        batch, facts = self._make_batch(state, trajectory.transitions)

        def loss(params: nnx.State, chosen: Array) -> tuple[Array, tuple[Losses, Metrics]]:
            groups = jax.tree.map(lambda x: take(x, chosen, axis=1, rows=config.group_size), batch)
            return self._loss(params, state, groups)

        params, optimiser, losses = self.learn(state, loss, Losses, config.num_groups, shuffle_key)
        observations = state.observations
        if observations is not None:  # only now, so that the replay saw what the rollout saw
            observations = update_moments(observations, trajectory.transitions.observation, batch_axes=2)
        metrics = {
            "episode_return": episodes.mean_return,
            "episode_length": episodes.mean_length,
            "episodes": episodes.ended,
            **losses,
            **facts,
            "learning_rate": self.learning_rate(state.update),
        }
        return TrainState(params, state.reference, optimiser, observations, state.key, state.update + 1), metrics

    def collect(self, state: TrainState, key: Key) -> tuple[Rollout, Trajectory, Episodes]:
        """T steps of B environments, from their start, under the state's policy."""
        config, network = self.config, self.network(state)
        start_key, step_key = jax.random.split(key)
        return collect(
            self.env,
            self.env_params,
            network,
            lambda observation: self.see(state, observation),
            init_rollout(self.env, self.env_params, network, config.num_envs, start_key, config.group_size),
            step_key,
            config.num_steps,
            config.num_steps,
            partial(self._choose_serially, state) if config.serial and config.exits == "forced" else sample,
            config.group_size,
            config.prefix,
        )

    def _choose_serially(self, state: TrainState, rollout: Rollout, policy: distrax.Distribution, keys: Key) -> Array:
        """The same actions throughout a group, but that each environment answers when its time has come.

        The last of a group is left alone. All is drawn from what the group has in common, so that those which have not
        answered yet stay alike.
        """
        size, horizon = self.config.group_size, self.config.exit_steps or self.config.num_steps
        common = rollout.environment
        member = jnp.arange(len(rollout.reset)) % size

        def time_to_answer(state: Any, member: Array) -> Array:
            return jax.random.randint(jax.random.fold_in(state.episode_key(2), member), (), 0, horizon)

        now = (rollout.episode_length >= jax.vmap(time_to_answer)(common, member)) & (member < size - 1)
        logits = policy.logits  # pyright: ignore[reportAttributeAccessIssue]
        answers = jnp.isin(jnp.arange(logits.shape[-1]), jnp.array(self.env.answer_actions))
        serial = self._is_serial(state)
        logits = jnp.where(serial & now[:, None] & ~answers[None], -jnp.inf, logits)
        common_keys = jax.vmap(lambda state: state.step_key(3))(common)
        return jax.vmap(jax.random.categorical)(jnp.where(serial, common_keys, keys), logits)

    def _is_serial(self, state: TrainState) -> Array:
        """Whether groups are serial by now."""
        return state.update >= self.config.serial_after * self.num_updates

    def _renew_reference(self, state: TrainState) -> TrainState:
        every = self.config.reference_updates
        if state.reference is None or every is None:
            return state
        due = state.update % every == 0
        renewed = jax.tree.map(lambda new, old: jnp.where(due, new, old), state.params, state.reference)
        return state._replace(reference=renewed)

    def _make_batch(self, state: TrainState, transitions: Transition) -> tuple[Batch, dict[str, Array]]:
        """What a rollout teaches, and scalars that describe it."""
        config = self.config
        attempts = find_attempts(transitions.reset, transitions.terminated | transitions.truncated)
        counts = self._counts(attempts)
        transitions = transitions._replace(reward=self._rewards(state, transitions, attempts, counts))
        score = total(attempts.episode, transitions.reward * config.discount**attempts.time)
        advantage = self._advantages(transitions, attempts, counts, score)
        spread = differ(in_groups(score, config.group_size), in_groups(counts, config.group_size))
        spread = jnp.repeat(spread, config.group_size, -1)
        facts = {
            "counted_steps": at_steps(attempts, counts).mean(),
            "equal_episodes": jnp.sum(counts & ~spread) / jnp.maximum(jnp.sum(counts), 1),
        }
        if config.prefix:
            first = jax.tree.map(lambda x: x[: config.prefix], (transitions.observation, transitions.reset))
            facts[PREFIX_ALIKE] = rows_alike(first, config.group_size).mean()
        if config.drop_equal:
            counts = counts & spread
        reference = None
        if state.reference is not None:
            reference = self._log_prob(self._replay(state._replace(params=state.reference), transitions), transitions)
        batch = Batch(
            transitions,
            attempts,
            advantage,
            at_steps(attempts, counts),
            at_steps(attempts, attempts.length).astype(jnp.float32),
            reference,
        )
        return batch, facts

    def _counts(self, attempts: Attempts) -> Array:
        """Which episodes [N, B] teach something."""
        if self.config.unfinished == "count":
            return attempts.length > 0
        if self.config.baseline in ("group", "leave_one_out"):
            return whole_groups(attempts, self.config.group_size)
        return attempts.finished

    def _rewards(self, state: TrainState, transitions: Transition, attempts: Attempts, counts: Array) -> Array:
        """Rewards [T, B] as the variant has them."""
        config, reward, size = self.config, transitions.reward, self.config.group_size
        last = jnp.maximum(attempts.start + attempts.length - 1, 0)
        if config.serial:
            right = attempts.finished & (jnp.take_along_axis(reward, last, 0) > 0)
            factors = serial_factors(in_groups(right, size), in_groups(attempts.length, size), config.exit_decay)
            answers = attempts.time + 1 == at_steps(attempts, attempts.length)
            decayed = self._is_serial(state) & answers & at_steps(attempts, right)
            reward = jnp.where(decayed, at_steps(attempts, factors.reshape(last.shape)) * reward, reward)
        if config.diversity:
            mode = in_groups(jnp.take_along_axis(transitions.action, last, 0), size)
            factors = diversity_factors(mode, in_groups(counts, size), state.update / max(1, self.num_updates - 1))
            reward = reward * at_steps(attempts, factors.reshape(last.shape))
        return reward

    def _advantages(self, transitions: Transition, attempts: Attempts, counts: Array, score: Array) -> Array:
        """Of each step, [T, B]."""
        config, size = self.config, self.config.group_size
        if config.credit == "step":
            done = transitions.terminated | transitions.truncated
            score, counts = returns_to_go(transitions.reward, done, config.discount), at_steps(attempts, counts)
            others, compared = same_step(attempts, score, size)
        else:
            others, compared = of_group(score, size), of_group(counts, size)
        if config.baseline == "batch":
            others, compared = score.reshape(1, 1, -1), counts.reshape(1, 1, -1)
        advantage = jnp.where(counts, relative(score, others, compared, config.baseline, scale=config.scale), 0)
        return advantage if config.credit == "step" else at_steps(attempts, advantage)

    def _loss(self, params: nnx.State, state: TrainState, batch: Batch) -> tuple[Array, tuple[Losses, Metrics]]:
        """GRPO's loss on the rows of a batch, replayed from their start, and what the memory measured."""
        config = self.config
        output = self._replay(state._replace(params=params), batch.transitions)
        log_prob = self._log_prob(output, batch.transitions)
        # An answer that was not the policy's choice may have been all but impossible.
        log_ratio = jnp.minimum(log_prob - batch.transitions.log_prob, LARGEST_LOG_RATIO)
        weights = step_weights(batch.counts, batch.length, config.mean_over, config.num_steps)
        clipped = log_ratio
        if config.ratio == "episode":
            clipped = at_steps(batch.attempts, total(batch.attempts.episode, log_ratio)) / batch.length
        surrogate = clipped_policy_loss(clipped, batch.advantage, config.clip, config.clip_high)
        policy_loss = jnp.sum(weights * surrogate)
        reference_kl = jnp.float32(0)
        if batch.reference_log_prob is not None:
            reference_kl = jnp.sum(weights * approximate_kl(batch.reference_log_prob - log_prob))
        entropy = output.policy.entropy().mean()
        loss = policy_loss + config.kl_weight * reference_kl - config.entropy_weight * entropy
        high = config.clip if config.clip_high is None else config.clip_high
        change = jnp.expm1(clipped)
        losses = Losses(
            loss=loss,
            policy_loss=policy_loss,
            reference_kl=reference_kl,
            entropy=entropy,
            approximate_kl=approximate_kl(log_ratio).mean(),
            clip_fraction=jnp.mean((change < -config.clip) | (change > high)),
        )
        return loss, (losses, output.metrics)

    def _replay(self, state: TrainState, transitions: Transition) -> Output:
        """What the network says of a rollout's steps, [T, B]."""
        seen = self.see(state, transitions.observation)
        return unroll_groups(self.network(state), seen, transitions.reset, self.config.group_size, self.config.prefix)

    def _log_prob(self, output: Output, transitions: Transition) -> Array:
        return jnp.asarray(output.policy.log_prob(transitions.action))
