"""The layer round a memory that learns at test time, for Titans and the models of its family, where the equations are.

Projections, a short convolution and SiLU make q, k and v of width d, q and k of length 1; three gates say how fast the
memory learns, how its momentum lasts and how much it forgets; the inner loop trains and reads it (see
`memrl.cores.inner_loop`); what was read is normalised, gated and projected.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from memrl.cores.base import CoreConfig, Linear, MemoryCore
from memrl.cores.convolution import ShortConvolution
from memrl.cores.heads import HeadNorm, unit
from memrl.cores.inner_loop import InnerLoop, InnerState, Steps
from memrl.cores.inner_network import InnerNetwork, squared_distance
from memrl.cores.linear_attention import split_widths
from memrl.types import Array


@dataclasses.dataclass(frozen=True)
class NeuralMemoryConfig(CoreConfig):
    """Hyperparameters that all memories that learn at test time have."""

    width: int = 32
    """Width d of keys, values and queries, and so of the memory's inputs and outputs."""
    depth: int = 2
    """Layers L_M of the memory; 1 for a matrix."""
    expansion: int = 2
    """Width of the memory's hidden layers, in terms of d."""
    chunk_length: int = 16
    """Steps C between the weights that gradients are taken at; it changes the function."""
    max_learning_rate: float = 0.1
    """Bound theta_max of the inner learning rate."""
    max_gradient_norm: float = 10.0
    """Inner gradients, of one step each, that are longer than this are scaled back."""
    conv_width: int = 4
    """Number of inputs that the convolution before q, k and v sees; 1 for a weight per channel."""

    def check(self) -> None:
        """Raises `MemrlError` for a size or a bound that is not above zero."""
        self.check_positive("width", "depth", "expansion", "chunk_length", "conv_width")
        self.check_positive("max_learning_rate", "max_gradient_norm")


class NeuralMemoryState(NamedTuple):
    """What an episode leaves."""

    inputs: Array  # [B, conv_width - 1, 3 d]
    memory: InnerState


class NeuralMemory(MemoryCore):
    """A layer whose memory is a network; its state is a `NeuralMemoryState`."""

    parallel: ClassVar[bool] = False  # the steps of a chunk are, but chunks wait for each other

    def __init__(self, features: int, config: NeuralMemoryConfig, *, rngs: nnx.Rngs):
        d = config.width
        self.features, self.config = features, config
        self.widths = (3 * d, d, 3)  # q k v, output gate, theta eta alpha
        self.project = Linear(features, sum(self.widths), use_bias=False, rngs=rngs)
        self.gate_bias = nnx.Param(jnp.array([0.0, 0.0, FORGETTING]))
        self.convolution = ShortConvolution(3 * d, config.conv_width, use_bias=False, rngs=rngs)
        self.network = InnerNetwork(d, config.depth, config.expansion, residual=False, rngs=rngs)
        self.norm = HeadNorm(1, d)
        self.output = Linear(d, features, use_bias=False, rngs=rngs)

    @property
    def inner_loop(self) -> InnerLoop:
        """How the memory is trained."""
        config = self.config
        return InnerLoop(self.network, squared_distance, config.chunk_length, config.max_gradient_norm, momentum=True)

    def initial_state(self, batch_size: int) -> NeuralMemoryState:
        """No inputs, and the initial weights."""
        return NeuralMemoryState(self.convolution.initial_state(batch_size), self.inner_loop.initial_state(batch_size))

    def unroll(self, state: NeuralMemoryState, xs: Array, resets: Array) -> tuple[NeuralMemoryState, Array]:
        """See `MemoryCore.unroll`."""
        # Between the projections in float32: the memory would magnify the rounding of bfloat16.
        qkv, gate, gates = split_widths(self.project(xs).astype(jnp.float32), self.widths)
        inputs, qkv = self.convolution(state.inputs, qkv, resets)
        q, k, v = jnp.split(nnx.silu(qkv), 3, -1)
        rate, momentum, forget = jnp.moveaxis(gates + self.gate_bias[...][None, None], -1, 0)
        steps = Steps(
            unit(q),
            unit(k),
            v,
            self.config.max_learning_rate * nnx.sigmoid(rate),
            jax.nn.log_sigmoid(-forget),
            jax.nn.log_sigmoid(momentum),
        )
        memory, o, _ = self.inner_loop.unroll(state.memory, steps, resets)
        o = self.norm(o[..., None, :])[..., 0, :] * nnx.silu(gate)
        return NeuralMemoryState(inputs, memory), self.output(o.astype(xs.dtype))


FORGETTING = -4.0  # logit of alpha at the start: 2% at a step
