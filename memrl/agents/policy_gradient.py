"""What agents share that follow a policy's gradient: network, optimiser, learning rate, epochs of gradient steps."""

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
from memrl.agents.minibatches import draw
from memrl.agents.normaliser import normalise
from memrl.agents.parameters import descend, flatten
from memrl.errors import check
from memrl.networks import ActorCritic
from memrl.networks.metrics import Metrics
from memrl.types import Array, Key, Observation


@dataclasses.dataclass(frozen=True)
class PolicyGradientConfig(AgentConfig):
    """Hyperparameters that all agents of this kind have."""

    numbers: ClassVar[tuple[str, ...]] = ("entropy_weight", "learning_rate", "max_gradient_norm", "target_kl")

    epochs: int = 4
    """Passes over each rollout."""
    minibatches: int = 8
    """Gradient steps per epoch."""
    entropy_weight: float = 0.01
    """Weight of the entropy bonus."""
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

    def check(self) -> None:
        """Raises `MemrlError` for impossible sizes and values out of range."""
        for name in ("num_envs", "num_steps", "epochs", "minibatches"):
            check(getattr(self, name) >= 1, f"{self.owner}: {name} is {getattr(self, name)}, expected at least 1")
        for name in ("adam_beta1", "adam_beta2"):
            value = getattr(self, name)
            check(0 <= value < 1, f"{self.owner}: {name} is {value}, expected at least 0 and less than 1")
        self.check_positive("learning_rate", "max_gradient_norm", "adam_epsilon", "target_kl")
        check(0 <= self.warmup < 1, f"{self.owner}: warmup is {self.warmup}, expected at least 0 and less than 1")

    def check_fraction(self, *names: str) -> None:
        """Raises `MemrlError` for the first of these fields that is not between 0 and 1."""
        for name in names:
            value = getattr(self, name)
            check(0 <= value <= 1, f"{self.owner}: {name} is {value}, expected between 0 and 1")


Loss = Callable[[nnx.State, Array], tuple[Array, tuple[Any, Metrics]]]  # see `PolicyGradientAgent.learn`


class GradientStep(NamedTuple):
    """What a gradient step reports, scalars, and sums of them."""

    losses: Any  # a NamedTuple of scalars with at least `loss` and `approximate_kl`
    metrics: Metrics  # of the memory, zero where not measured
    measured: Array  # 1, until after the first step that was not finite: all that follow it are bad for that reason
    gradient_norm: Array
    nonfinite: Array  # 1 where loss, gradient or a metric of the memory is NaN or infinite
    steps: Array  # 1


@dataclasses.dataclass(frozen=True)
class PolicyGradientAgent:
    """An agent on one environment; a subclass adds `init`, `update` and `collect` (see `memrl.agents.base.Agent`).

    Its train state has fields `params`, `optimiser`, `observations` (moments, or None), `key` and `update`.
    """

    env: Any  # a gymnax environment, stepped under vmap
    env_params: Any
    make_network: Callable[[nnx.Rngs], ActorCritic]
    config: PolicyGradientConfig
    num_updates: int  # of the whole run, over which schedules run

    def network(self, state: Any) -> ActorCritic:
        """The network with the state's parameters."""
        graphdef, _ = jax.eval_shape(self.init_network, state.key)
        return nnx.merge(graphdef, state.params)

    def see(self, state: Any, observation: Observation) -> Observation:
        """What the network sees of an observation [..., *shape]: its normalisation, if any."""
        return observation if state.observations is None else normalise(state.observations, observation)

    @functools.cached_property
    def init_network(self) -> Callable[[Key], tuple[nnx.GraphDef[ActorCritic], nnx.State]]:
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

    def learn(
        self, state: Any, loss: Loss, parts: type[Any], items: int, key: Key
    ) -> tuple[nnx.State, optax.OptState, dict[str, Array]]:
        """All epochs' gradient steps.

        Args:
            state: the train state, with parameters and optimiser to start from.
            loss: of parameters, on a minibatch as `memrl.agents.minibatches` draws it: the loss, its parts, and what
                the memory measured.
            parts: the NamedTuple of the loss's parts, scalars, with `loss` and `approximate_kl` among them.
            items: how many there are, a multiple of `minibatches`.
            key: draws the minibatches.

        Returns:
            parameters, optimiser, and the parts' means over the gradient steps that were taken.
        """
        config = self.config
        minibatches = draw(key, config.epochs, config.minibatches, items)
        learning_rate = self.learning_rate(state.update)

        def gradient_step(carry, chosen):
            params, optimiser, _, totals = carry
            gradient, (losses, metrics) = jax.grad(loss, has_aux=True)(params, chosen)
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
        no_step = GradientStep(parts(*[zero] * len(parts._fields)), no_metrics, zero, zero, zero, zero)
        start = (state.params, state.optimiser, jnp.asarray(False), no_step)
        (params, optimiser, _, totals), _ = lax.scan(step, start, minibatches)
        means = totals.losses._asdict() | {"gradient_norm": totals.gradient_norm}
        means = {name: total / totals.steps for name, total in means.items()}
        means |= {name: total / totals.measured for name, total in totals.metrics.items()}
        return params, optimiser, means | {"gradient_steps": totals.steps, "nonfinite_steps": totals.nonfinite}


def clipped_policy_loss(log_ratio: Array, advantage: Array, clip: float, clip_high: float | None = None) -> Array:
    """-min(ratio A, clip(ratio, 1 - clip, 1 + clip) A), elementwise (Schulman et al. 2017, equation 7).

    With `clip_high` that is how far up the ratio counts, as in DAPO.
    """
    ratio = jnp.exp(log_ratio)
    high = clip if clip_high is None else clip_high
    return -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + high) * advantage)


def approximate_kl(log_ratio: Array) -> Array:
    """An estimate of the policy's distance from that which acted, elementwise and never negative: r - 1 - log r.

    It is Schulman's k3 (http://joschu.net/blog/kl-approx.html), where the action is from the policy of r's denominator.
    """
    return jnp.expm1(log_ratio) - log_ratio
