"""Feed-forward pieces: activations by name, and stacks of dense layers."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import jax
from flax import nnx

from memrl.cores.base import Linear, orthogonal
from memrl.types import Array

Activation = Literal["relu", "tanh", "gelu", "silu", "leaky_relu"]


def activation_function(name: Activation) -> Callable[[Array], Array]:
    """The function that `name` stands for."""
    return getattr(jax.nn, name) if name != "tanh" else jax.numpy.tanh


def dense(inputs: int, outputs: int, rngs: nnx.Rngs, *, scale: float = math.sqrt(2)) -> nnx.Linear:
    """A dense layer whose kernel starts orthogonal, times `scale` (Andrychowicz et al. 2021)."""
    return Linear(inputs, outputs, kernel_init=orthogonal(scale), rngs=rngs)


class Dense(nnx.Module):
    """Dense layers of the given widths, each followed by the activation: [..., inputs] to [..., sizes[-1]]."""

    def __init__(self, inputs: int, sizes: Sequence[int], activation: Activation, *, rngs: nnx.Rngs):
        self.activation = activation_function(activation)
        widths = [inputs, *sizes]
        self.layers = nnx.List([dense(n, m, rngs) for n, m in zip(widths, sizes, strict=False)])
        self.outputs = widths[-1]

    def __call__(self, x: Array) -> Array:
        """Applies the layers to the last axis."""
        for layer in self.layers:
            x = self.activation(layer(x))
        return x
