"""The network that a test-time memory trains as it goes: its layers, its losses, the gradient of each example.

    M(x) = f(x),   or x + LayerNorm(f(x)) where `residual`,   f(x) = W_L act(... act(W_1 x))

with a bias after each product where `offset`, as one more row of W_l. What the weights are is the caller's, who gives
the product of a layer and what enters it: so the same network is read with weights of each environment, with those
that all of them start from, or with weights that are never held because they are sums over steps (see
`memrl.cores.inner_loop`). The gradient of one example is not held either: in layer l it is the outer product of what
entered the layer, a_l, and of the error at its output, g_l.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from memrl.cores.base import LayerNorm
from memrl.types import Array

Bias = Literal["dot_product", "l2", "lp", "huber"]
Loss = Callable[[Array, Array, Array], Array]  # of M(k) and v, [..., d], and a threshold [...]; [...]
Product = Callable[[int, Array], Array]  # layer l and [..., inputs of l] to [..., outputs of l], or the other way round
Weights = tuple[Array, ...]  # of each layer, [..., inputs, outputs]


DENSE = jax.nn.initializers.lecun_normal()


class Gradients(NamedTuple):
    """Of the loss of each example by itself, in each layer: the outer products of `inputs` and `errors`."""

    inputs: Weights  # a_l [..., inputs of l]
    errors: Weights  # g_l [..., outputs of l]
    losses: Array  # [...]


class InnerNetwork(nnx.Module):
    """A network of `depth` layers with outputs of `width`; its parameters are the weights episodes start with.

    There are as many inputs, or with `inputs` more of them, of which the residual connection takes the first.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        expansion: int,
        *,
        inputs: int | None = None,
        residual: bool = False,
        offset: bool = False,
        init: jax.nn.initializers.Initializer = DENSE,
        rngs: nnx.Rngs,
    ):
        self.width, self.inputs = width, inputs or width
        hidden = [expansion * width] * (depth - 1)
        sizes = zip([self.inputs, *hidden], [*hidden, width], strict=True)
        layers = [init(rngs.params(), size) for size in sizes]
        self.layers = nnx.List([nnx.Param(jnp.pad(w, ((0, offset), (0, 0)))) for w in layers])
        self.offset = offset
        # Where all outputs are alike, as with the weights of `memora`, a difference of squares would lose all digits.
        self.norm = LayerNorm(width, use_fast_variance=False, rngs=rngs) if residual else None

    def initial(self) -> Weights:
        """The weights at the start of an episode."""
        return tuple(layer[...] for layer in self.layers)

    def read(self, product: Product, x: Array) -> Array:
        """M(x) of x [..., inputs], [..., d]."""
        h = self._entering(x)
        for layer in range(len(self.layers) - 1):
            h = self._entering(nnx.gelu(product(layer, h)))
        return self._output(x, product(len(self.layers) - 1, h))

    def gradients(
        self, product: Product, transposed: Product, k: Array, v: Array, loss: Loss, threshold: Array
    ) -> Gradients:
        """Of the loss of M(k) and v [..., d], with respect to the weights that `product` stands for."""
        inputs, slopes = [self._entering(k)], []
        for layer in range(len(self.layers) - 1):
            h, slope = jax.vjp(nnx.gelu, product(layer, inputs[-1]))
            inputs.append(self._entering(h))
            slopes.append(slope)

        def total(z: Array) -> tuple[Array, Array]:
            losses = loss(self._output(k, z), v, threshold)
            return jnp.sum(losses), losses

        error, losses = jax.grad(total, has_aux=True)(product(len(slopes), inputs[-1]))
        errors = [error]
        for layer in reversed(range(len(slopes))):
            before = transposed(layer + 1, errors[-1])
            errors.extend(slopes[layer](before[..., :-1] if self.offset else before))
        return Gradients(tuple(inputs), tuple(reversed(errors)), losses)

    def _entering(self, h: Array) -> Array:
        return jnp.concatenate([h, jnp.ones_like(h[..., :1])], -1) if self.offset else h

    def _output(self, x: Array, z: Array) -> Array:
        return z if self.norm is None else x[..., : self.width] + self.norm(z)


def attentional_bias(bias: Bias, power: float) -> Loss:
    """What the memory is trained to make small, by name."""

    def dot_product(y: Array, v: Array, threshold: Array) -> Array:
        del threshold
        return -jnp.sum(y * v, -1)

    def l2(y: Array, v: Array, threshold: Array) -> Array:
        del threshold
        return jnp.sum(jnp.square(y - v), -1)

    def lp(y: Array, v: Array, threshold: Array) -> Array:
        del threshold
        return jnp.sum(jnp.abs(y - v) ** power, -1)

    def huber(y: Array, v: Array, threshold: Array) -> Array:
        """Twice Huber's function of the distance."""
        square = l2(y, v, threshold)
        far = square > threshold**2
        distance = jnp.sqrt(jnp.where(far, square, 1))
        return jnp.where(far, threshold * (2 * distance - threshold), square)

    return {"dot_product": dot_product, "l2": l2, "lp": lp, "huber": huber}[bias]
