"""The residual stack round a core: any number of layers, a different core in each if wanted."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Literal

import jax
from flax import nnx

from memrl.config import Config
from memrl.cores import CoreConfig, build_core
from memrl.cores.base import LayerNorm, Linear, MemoryCore
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

    @property
    def parallel(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether every layer is."""
        return all(layer.core.parallel for layer in self.layers)

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


class Gate(nnx.Module):
    """GTrXL's gate (Parisotto et al. 2020): a GRU cell whose state is the stream x and whose input is the sublayer's y.

    r = s(W_r y + U_r x),   z = s(W_z y + U_z x - b),   h = tanh(W_h y + U_h (r * x)),   output (1 - z) x + z h
    """

    def __init__(self, features: int, bias: float, *, rngs: nnx.Rngs):
        self.from_y = Linear(features, 3 * features, use_bias=False, rngs=rngs)
        self.from_x = Linear(features, 2 * features, use_bias=False, rngs=rngs)
        self.from_reset = Linear(features, features, use_bias=False, rngs=rngs)
        self.bias = nnx.Param(jax.numpy.full((features,), bias))

    def __call__(self, x: Array, y: Array) -> Array:
        """[..., D], twice, to [..., D]."""
        y = nnx.relu(y)
        y_r, y_z, y_h = jax.numpy.split(self.from_y(y), 3, -1)
        x_r, x_z = jax.numpy.split(self.from_x(x), 2, -1)
        bias = self.bias[...].astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
        z = nnx.sigmoid(y_z + x_z - bias)
        h = jax.numpy.tanh(y_h + self.from_reset(nnx.sigmoid(y_r + x_r) * x))
        return (1 - z) * x + z * h


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
