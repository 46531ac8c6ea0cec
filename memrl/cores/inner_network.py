"""The network that a test-time memory trains as it goes: its layers, its losses, the gradient of each example.

    M(x) = W_L act(... act(W_1 x)),   or x + LayerNorm(that) where `residual`

What the weights are is the caller's, who gives the product of a layer and what enters it: so the same network is read
with weights of each environment, with those that all of them start from, or with weights that are never held because
they are sums over steps (see `memrl.cores.inner_loop`). The gradient of one example is not held either: in layer l it
is the outer product of what entered the layer, a_l, and of the error at its output, g_l.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from memrl.cores.base import LayerNorm
from memrl.types import Array

Bias = Literal["dot_product", "l2", "lp", "huber"]
Product = Callable[[int, Array], Array]  # layer l and [..., inputs of l] to [..., outputs of l], or the other way round
Weights = tuple[Array, ...]  # of each layer, [..., inputs, outputs]


class Gradients(NamedTuple):
    """Of the loss of each example by itself, in each layer: the outer products of `inputs` and `errors`."""

    inputs: Weights  # a_l [..., inputs of l]
    errors: Weights  # g_l [..., outputs of l]
    losses: Array  # [...]


class InnerNetwork(nnx.Module):
    """A network of `depth` layers between vectors of `width`; its parameters are the weights episodes start with."""

    def __init__(self, width: int, depth: int, expansion: int, *, residual: bool, rngs: nnx.Rngs):
        hidden = [expansion * width] * (depth - 1)
        init = jax.nn.initializers.lecun_normal()
        sizes = zip([width, *hidden], [*hidden, width], strict=True)
        self.layers = nnx.List([nnx.Param(init(rngs.params(), size)) for size in sizes])
        self.norm = LayerNorm(width, rngs=rngs) if residual else None

    def initial(self) -> Weights:
        """The weights at the start of an episode."""
        return tuple(layer[...] for layer in self.layers)

    def read(self, product: Product, x: Array) -> Array:
        """M(x) of x [..., d]."""
        h = x
        for layer in range(len(self.layers) - 1):
            h = nnx.gelu(product(layer, h))
        return self._output(x, product(len(self.layers) - 1, h))

    def gradients(self, product: Product, transposed: Product, k: Array, v: Array, loss: "Loss") -> Gradients:
        """Of the loss of M(k) and v, [..., d] both, with respect to the weights that `product` stands for."""
        inputs, slopes = [k], []
        for layer in range(len(self.layers) - 1):
            h, slope = jax.vjp(nnx.gelu, product(layer, inputs[-1]))
            inputs.append(h)
            slopes.append(slope)

        def total(z: Array) -> tuple[Array, Array]:
            losses = loss(self._output(k, z), v)
            return jnp.sum(losses), losses

        error, losses = jax.grad(total, has_aux=True)(product(len(slopes), inputs[-1]))
        errors = [error]
        for layer in reversed(range(len(slopes))):
            (error,) = slopes[layer](transposed(layer + 1, error))
            errors.append(error)
        return Gradients(tuple(inputs), tuple(reversed(errors)), losses)

    def _output(self, x: Array, z: Array) -> Array:
        return z if self.norm is None else x + self.norm(z)


Loss = Callable[[Array, Array], Array]  # of what the memory says and of what it should say, [..., d] both; [...]


def squared_distance(y: Array, v: Array) -> Array:
    """||y - v||^2."""
    return jnp.sum(jnp.square(y - v), -1)
