"""The residual stack round a core: any number of layers, a different core in each if wanted."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Literal

import jax
from flax import nnx

from memrl.config import Config
from memrl.cores import CoreConfig, build_core, core_name
from memrl.cores.base import Extras, LayerNorm, Linear, MemoryCore
from memrl.cores.gate import Gate
from memrl.cores.gmu import GMU, GMUConfig
from memrl.errors import check
from memrl.networks.metrics import means_by_name, names_in
from memrl.types import Array, State

Residual = Literal["none", "add", "gate"]


@dataclasses.dataclass(frozen=True)
class StackConfig(Config):
    """What surrounds the cores of a stack."""

    owner: ClassVar[str] = "stack"

    layers: int | None = None
    """Number of layers, over which the cores are repeated in turn; as many as there are cores when not given."""
    norm: Literal["layer", "none"] = "layer"
    """Layer normalisation before each core and feed-forward, and once after the last layer."""
    residual: Residual = "add"
    """How a sublayer joins its input: replaced by it, added, or through the GRU gate of GTrXL."""
    feed_forward: int = 0
    """Hidden width of a feed-forward sublayer after each core; 0 for none."""
    gate_bias: float = 2.0
    """Bias of GTrXL's gate towards the identity."""
    recompute: bool = False
    """Compute each layer again for its gradients, rather than keep what is in it for the whole sequence."""

    def check(self) -> None:
        """Raises `MemrlError` for impossible sizes."""
        check(self.layers is None or self.layers >= 1, f"stack: layers is {self.layers}, expected at least 1")
        check(self.feed_forward >= 0, f"stack: feed_forward is {self.feed_forward}, expected at least 0")


class MemoryStack(MemoryCore):
    """Layers of cores, itself a core; its state is a tuple with the state of each layer."""

    def __init__(self, features: int, cores: Sequence[CoreConfig], config: StackConfig, *, rngs: nnx.Rngs):
        layers = len(cores) if config.layers is None else config.layers
        check(layers >= len(cores), f"stack: layers is {layers}, expected at least {len(cores)}, one for each core")
        cores = [cores[i % len(cores)] for i in range(layers)]
        self.features = features
        self.sources = tuple(_source(i, cores) for i in range(layers))
        self.layers = nnx.List([])
        for core, source in zip(cores, self.sources, strict=True):
            read = None if source is None else self.layers[source].core
            self.layers.append(Layer(features, core, read, config, rngs=rngs))
        self.norm = _make_norm(features, config, rngs)
        self.recompute = config.recompute

    @property
    def parallel(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether every layer is."""
        return all(layer.core.parallel for layer in self.layers)

    @property
    def metrics(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Those of the layers."""
        return names_in(layer.core.metrics for layer in self.layers)

    def initial_state(self, batch_size: int) -> tuple[State, ...]:
        """The initial state of each layer."""
        return tuple(layer.core.initial_state(batch_size) for layer in self.layers)

    def unroll(self, state: tuple[State, ...], xs: Array, resets: Array) -> tuple[tuple[State, ...], Array]:
        """See `MemoryCore.unroll`."""
        state, ys, _ = self.unroll_with_extras(state, xs, resets)
        return state, ys

    def unroll_with_extras(
        self, state: tuple[State, ...], xs: Array, resets: Array
    ) -> tuple[tuple[State, ...], Array, Extras]:
        """See `MemoryCore.unroll_with_extras`; a metric of several layers is their mean."""
        states, extras = [], []
        for layer, source, layer_state in zip(self.layers, self.sources, state, strict=True):
            read = None if source is None else extras[source].readout
            run = jax.checkpoint(layer.__call__) if self.recompute else layer
            layer_state, xs, extra = run(layer_state, xs, resets, read)
            states.append(layer_state)
            extras.append(extra)
        ys = self.norm(xs)
        return tuple(states), ys, Extras(ys, means_by_name([extra.metrics for extra in extras]))

    def attention_maps(self, xs: Array, resets: Array) -> list[Array | None]:
        """Each layer's `MemoryCore.attention_map`."""
        maps, extras = [], []
        for layer, source, state in zip(self.layers, self.sources, self.initial_state(xs.shape[1]), strict=True):
            maps.append(layer.core.attention_map(layer.norm(xs), resets))
            _, xs, extra = layer(state, xs, resets, None if source is None else extras[source].readout)
            extras.append(extra)
        return maps


def _source(i: int, cores: Sequence[CoreConfig]) -> int | None:
    """The layer whose readout layer `i` takes, if it takes one and there is one; a gmu passes on what it took itself.

    Raises:
        MemrlError: if the layer that the core names does not come before it.
    """
    core = cores[i]
    if not isinstance(core, GMUConfig) or i == 0:
        return None
    names = [core_name(earlier) for earlier in cores[:i]]
    if core.source is None:
        return i - 1
    check(core.source in names, f"core gmu: source is {core.source!r}, expected the core of a layer before it: {names}")
    return i - 1 - names[::-1].index(core.source)


class Layer(nnx.Module):
    """Pre-norm, core, join; then, if asked for, pre-norm, feed-forward, join."""

    def __init__(
        self, features: int, core: CoreConfig, read: MemoryCore | None, config: StackConfig, *, rngs: nnx.Rngs
    ):
        self.norm = _make_norm(features, config, rngs)
        if isinstance(core, GMUConfig) and read is not None:
            self.core = GMU(features, core, read.readout_features, rngs=rngs)
        else:
            self.core = build_core(core, features, rngs=rngs)
        self.join = _make_join(features, config, rngs)
        self.feed_forward = FeedForward(features, config, rngs=rngs) if config.feed_forward else None

    def __call__(self, state: State, xs: Array, resets: Array, readout: Array | None) -> tuple[State, Array, Extras]:
        """One layer over [T, B, D]; takes the readout of the layer that it reads, if any, and gives its own."""
        if isinstance(self.core, GMU):
            state, ys = self.core.unroll(state, self.norm(xs), resets, readout)
            extras = Extras(readout, {})
        else:
            state, ys, extras = self.core.unroll_with_extras(state, self.norm(xs), resets)
        xs = self.join(xs, ys)
        return state, xs if self.feed_forward is None else self.feed_forward(xs), extras


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
