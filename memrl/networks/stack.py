"""The residual stack round a core: any number of layers, a different core in each if wanted."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Literal

from flax import nnx

from memrl.config import Config
from memrl.cores import CoreConfig, build_core
from memrl.cores.base import LayerNorm, Linear, MemoryCore
from memrl.cores.gate import Gate
from memrl.errors import check
from memrl.types import Array, State

Residual = Literal["none", "add", "gate"]


@dataclasses.dataclass(frozen=True)
class StackConfig(Config):
    """What surrounds the cores of a stack."""

    owner: ClassVar[str] = "stack"

    layers: int = 1
    """Number of layers; several cores are repeated in turn."""
    norm: Literal["layer", "none"] = "layer"
    """Layer normalisation before each core and feed-forward, and once after the last layer."""
    residual: Residual = "add"
    """How a sublayer joins its input: replaced by it, added, or through the GRU gate of GTrXL."""
    feed_forward: int = 0
    """Hidden width of a feed-forward sublayer after each core; 0 for none."""
    gate_bias: float = 2.0
    """Bias of GTrXL's gate towards the identity."""

    def check(self) -> None:
        """Raises `MemrlError` for impossible sizes."""
        check(self.layers >= 1, f"stack: layers is {self.layers}, expected at least 1")
        check(self.feed_forward >= 0, f"stack: feed_forward is {self.feed_forward}, expected at least 0")


class MemoryStack(MemoryCore):
    """Layers of cores, itself a core; its state is a tuple with the state of each layer."""

    def __init__(self, features: int, cores: Sequence[CoreConfig], config: StackConfig, *, rngs: nnx.Rngs):
        self.features = features
        self.layers = nnx.List(
            [Layer(features, cores[i % len(cores)], config, rngs=rngs) for i in range(config.layers)]
        )
        self.norm = _make_norm(features, config, rngs)

    def initial_state(self, batch_size: int) -> tuple[State, ...]:
        """The initial state of each layer."""
        return tuple(layer.core.initial_state(batch_size) for layer in self.layers)

    def unroll(self, state: tuple[State, ...], xs: Array, resets: Array) -> tuple[tuple[State, ...], Array]:
        """See `MemoryCore.unroll`."""
        states = []
        for layer, layer_state in zip(self.layers, state, strict=True):
            layer_state, xs = layer(layer_state, xs, resets)
            states.append(layer_state)
        return tuple(states), self.norm(xs)


class Layer(nnx.Module):
    """Pre-norm, core, join; then, if asked for, pre-norm, feed-forward, join."""

    def __init__(self, features: int, core: CoreConfig, config: StackConfig, *, rngs: nnx.Rngs):
        self.norm = _make_norm(features, config, rngs)
        self.core = build_core(core, features, rngs=rngs)
        self.join = _make_join(features, config, rngs)
        self.feed_forward = FeedForward(features, config, rngs=rngs) if config.feed_forward else None

    def __call__(self, state: State, xs: Array, resets: Array) -> tuple[State, Array]:
        """One layer over [T, B, D]."""
        state, ys = self.core.unroll(state, self.norm(xs), resets)
        xs = self.join(xs, ys)
        return state, xs if self.feed_forward is None else self.feed_forward(xs)


class FeedForward(nnx.Module):
    """A position-wise two-layer network with its own norm and join."""

    def __init__(self, features: int, config: StackConfig, *, rngs: nnx.Rngs):
        self.norm = _make_norm(features, config, rngs)
        self.hidden = Linear(features, config.feed_forward, rngs=rngs)
        self.output = Linear(config.feed_forward, features, rngs=rngs)
        self.join = _make_join(features, config, rngs)

    def __call__(self, xs: Array) -> Array:
        """[..., D] to [..., D]."""
        return self.join(xs, self.output(nnx.gelu(self.hidden(self.norm(xs)))))


class Add(nnx.Module):
    """A residual connection."""

    def __call__(self, x: Array, y: Array) -> Array:
        """x + y."""
        return x + y


class Replace(nnx.Module):
    """No residual connection."""

    def __call__(self, x: Array, y: Array) -> Array:
        """The sublayer's output."""
        del x
        return y


class Identity(nnx.Module):
    """No normalisation."""

    def __call__(self, x: Array) -> Array:
        """The input."""
        return x


def _make_norm(features: int, config: StackConfig, rngs: nnx.Rngs) -> nnx.LayerNorm | Identity:
    return LayerNorm(features, rngs=rngs) if config.norm == "layer" else Identity()


def _make_join(features: int, config: StackConfig, rngs: nnx.Rngs) -> Add | Gate | Replace:
    if config.residual == "gate":
        return Gate(features, config.gate_bias, rngs=rngs)
    return Add() if config.residual == "add" else Replace()
