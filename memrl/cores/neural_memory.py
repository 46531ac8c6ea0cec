"""The layer round a memory that learns at test time, for Titans and the models of its family, where the equations are.

Projections, a short convolution and SiLU make q, k and v of width d, q and k of length 1; gates say how fast the memory
learns, how its momentum lasts, how much it forgets and what it takes for an outlier; the inner loop trains and reads it
(`memrl.cores.inner_loop`); what was read is normalised, gated and projected.

A model is four choices (Behrouz et al. 2025, "It's All Connected", Miras): the memory's network, the loss that it is
trained with, how it retains what it knew, and how it is trained. Two more are ATLAS's: how many of the last steps it
learns from at each, and features of keys and queries.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from memrl.cores.base import CoreConfig, Extras, Linear, MemoryCore
from memrl.cores.convolution import ShortConvolution
from memrl.cores.heads import HeadNorm, unit
from memrl.cores.inner_blocks import Steps
from memrl.cores.inner_loop import InnerLoop, InnerState, Optimiser, Retention, retained
from memrl.cores.inner_network import DENSE, Bias, InnerNetwork, attentional_bias
from memrl.cores.linear_attention import split_widths
from memrl.cores.polynomial import PolynomialFeatures
from memrl.errors import check
from memrl.types import Array

INNER_LOSS = "inner_loss"  # the metric


@dataclasses.dataclass(frozen=True)
class NeuralMemoryConfig(CoreConfig):
    """Hyperparameters that all memories that learn at test time have."""

    width: int = 32
    """Width d of keys, values and queries, and so of the memory's inputs and outputs."""
    depth: int = 2
    """Layers L_M of the memory; 1 for a matrix."""
    expansion: int = 2
    """Width of the memory's hidden layers, in terms of d."""
    residual: bool = False
    """Whether the memory is x + LayerNorm(f(x)) and not the network f alone."""
    offset: bool = False
    """Whether the memory's layers have biases."""
    bias: Bias = "l2"
    """The inner loss: -M(k) . v, ||M(k) - v||^2, sum |M(k) - v|^p, or Huber's of the distance."""
    bias_power: float = 3.0
    """Exponent p of the bias lp."""
    retention: Retention = "decay"
    """How the memory forgets: not at all, by decay, or by decay of what makes the weights, as `moneta` and `memora`."""
    retention_power: float = 4.0
    """Exponent q of the retention lq."""
    optimiser: Optimiser = "momentum"
    """How the memory learns: by its gradients, their running sum, or that sum made orthogonal (Muon)."""
    chunk_length: int = 16
    """Steps C between the weights that gradients are taken at; it changes the function."""
    window: int = 1
    """Tokens c that a step learns from, its own the last of them."""
    degree: int = 1
    """Highest power p of the features of keys and queries, of which the memory then has p d inputs."""
    max_learning_rate: float = 0.03
    """Bound theta_max of the inner learning rate. Gradients of a chunk are taken at the same weights: where its C keys
    are alike, as in a long wait, the inner loop is stable while 2 theta C / (1 - eta) < 2."""
    max_gradient_norm: float = 10.0
    """Inner gradients, of one step each, that are longer than this are scaled back."""
    conv_width: int = 4
    """Number of inputs that the convolution before q, k and v sees; 1 for a weight per channel."""

    def check(self) -> None:
        """Raises `MemrlError` for a size or a bound that is not above zero."""
        self.check_positive("width", "depth", "expansion", "chunk_length", "window", "degree", "conv_width")
        self.check_positive("max_learning_rate", "max_gradient_norm")
        for name in ("bias_power", "retention_power"):
            power = getattr(self, name)
            check(power >= 2, f"{self.owner}: {name} is {power}, expected at least 2")

    @property
    def gates(self) -> dict[str, float]:
        """The gates that the choices need, in order, and what is added to each before its sigmoid or softplus."""
        gates = {"rate": 0.0}
        if self.optimiser != "gradient":
            gates["momentum"] = 0.0
        if self.retention != "none":
            gates["forget"] = -4.0  # 2% at a step
        if self.bias == "huber":
            gates["threshold"] = 0.5  # about 1
        return gates


class NeuralMemoryState(NamedTuple):
    """What an episode leaves."""

    inputs: Array  # [B, conv_width - 1, 3 d]
    memory: InnerState


class NeuralMemory(MemoryCore):
    """A layer whose memory is a network; its state is a `NeuralMemoryState`."""

    parallel: ClassVar[bool] = False  # the steps of a chunk are, but chunks wait for each other
    metrics: ClassVar[tuple[str, ...]] = (INNER_LOSS,)  # mean over the steps of each one's loss before it is learnt

    def __init__(self, features: int, config: NeuralMemoryConfig, *, rngs: nnx.Rngs):
        d = config.width
        self.features, self.config = features, config
        shares = config.window if config.window > 1 else 0
        self.widths = (3 * d, d, len(config.gates), shares)  # q k v, output gate, gates, those of the window
        self.project = Linear(features, sum(self.widths), rngs=rngs)
        bias = self.project.bias
        assert bias is not None
        bias[...] = jnp.array([0.0] * 4 * d + list(config.gates.values()) + [0.0] * shares)
        self.convolution = ShortConvolution(3 * d, config.conv_width, use_bias=False, rngs=rngs)
        # Of a softmax, so that the outputs differ, and are no mean of the inputs each.
        init = jax.nn.initializers.normal(1.0) if config.retention == "kl" else DENSE
        self.features_of = PolynomialFeatures(config.degree) if config.degree > 1 else None
        self.network = InnerNetwork(
            d,
            config.depth,
            config.expansion,
            inputs=config.degree * d,
            residual=config.residual,
            offset=config.offset,
            init=init,
            rngs=rngs,
        )
        self.norm = HeadNorm(1, d)
        self.output = Linear(d, features, use_bias=False, rngs=rngs)

    @property
    def inner_loop(self) -> InnerLoop:
        """How the memory is trained."""
        config = self.config
        return InnerLoop(
            self.network,
            attentional_bias(config.bias, config.bias_power),
            config.chunk_length,
            config.max_gradient_norm,
            config.optimiser,
            retained(config.retention, config.retention_power),
            config.window,
        )

    def initial_state(self, batch_size: int) -> NeuralMemoryState:
        """No inputs, and the initial weights."""
        return NeuralMemoryState(self.convolution.initial_state(batch_size), self.inner_loop.initial_state(batch_size))

    def unroll(self, state: NeuralMemoryState, xs: Array, resets: Array) -> tuple[NeuralMemoryState, Array]:
        """See `MemoryCore.unroll`."""
        state, ys, _ = self.unroll_with_extras(state, xs, resets)
        return state, ys

    def unroll_with_extras(
        self, state: NeuralMemoryState, xs: Array, resets: Array
    ) -> tuple[NeuralMemoryState, Array, Extras]:
        """See `MemoryCore.unroll_with_extras`."""
        inputs, steps, gate = self.steps(state.inputs, xs, resets)
        memory, o, losses = self.inner_loop.unroll(state.memory, steps, resets)
        ys = self.read(o, gate, xs.dtype)
        return NeuralMemoryState(inputs, memory), ys, Extras(ys, {INNER_LOSS: jnp.mean(losses)})

    def within_chunk(
        self, state: NeuralMemoryState, xs: Array, resets: Array, real: Array
    ) -> tuple[NeuralMemoryState, Array, Array]:
        """See `InnerLoop.within_chunk`: steps of which those that are `real` [T, B] come first; the last are losses."""
        inputs, steps, gate = self.steps(state.inputs, xs, resets, jnp.sum(real, 0, dtype=jnp.int32))
        memory, o, losses = self.inner_loop.within_chunk(state.memory, steps, resets, real)
        return NeuralMemoryState(inputs, memory), self.read(o, gate, xs.dtype), losses

    def steps(self, inputs: Array, xs: Array, resets: Array, count: Array | None = None) -> tuple[Array, Steps, Array]:
        """The convolution's inputs after all steps, or after `count` [B]; the inner loop's steps; the output gate."""
        # Between the projections in float32: the memory would magnify the rounding of bfloat16.
        qkv, gate, gates, shares = split_widths(self.project(xs).astype(jnp.float32), self.widths)
        inputs, qkv = self.convolution(inputs, qkv, resets, count)
        q, k, v = jnp.split(nnx.silu(qkv), 3, -1)
        gate_of = {name: gates[..., i] for i, name in enumerate(self.config.gates)}
        none = jnp.zeros_like(gates[..., 0])
        steps = Steps(
            self.addresses(q),
            self.addresses(k),
            v,
            self.config.max_learning_rate * nnx.sigmoid(gate_of["rate"]),
            jax.nn.log_sigmoid(-gate_of["forget"]) if "forget" in gate_of else none,
            jax.nn.log_sigmoid(gate_of["momentum"]) if "momentum" in gate_of else none,
            jax.nn.softplus(gate_of["threshold"]) if "threshold" in gate_of else none,
            nnx.sigmoid(shares) if self.config.window > 1 else (),
        )
        return inputs, steps, gate

    def addresses(self, x: Array) -> Array:
        """Keys or queries [..., d] as the memory takes them: of length 1, and their features."""
        x = unit(x)
        return x if self.features_of is None else self.features_of(x)

    def read(self, o: Array, gate: Array, dtype: jnp.dtype) -> Array:
        """What was read, [T, B, d], normalised, gated and projected."""
        o = self.norm(o[..., None, :])[..., 0, :] * nnx.silu(gate)
        return self.output(o.astype(dtype))
