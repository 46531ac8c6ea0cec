"""GTrXL's gate, which can take the place of any residual connection."""

import jax.numpy as jnp
from flax import nnx

from memrl.cores.base import Linear
from memrl.types import Array


class Gate(nnx.Module):
    """GTrXL's gate (Parisotto et al. 2020): a GRU cell whose state is the stream x and whose input is the sublayer's y.

    r = s(W_r y + U_r x),   z = s(W_z y + U_z x - b),   h = tanh(W_h y + U_h (r * x)),   output (1 - z) x + z h
    """

    def __init__(self, features: int, bias: float, *, rngs: nnx.Rngs):
        self.from_y = Linear(features, 3 * features, use_bias=False, rngs=rngs)
        self.from_x = Linear(features, 2 * features, use_bias=False, rngs=rngs)
        self.from_reset = Linear(features, features, use_bias=False, rngs=rngs)
        self.bias = nnx.Param(jnp.full((features,), bias))

    def __call__(self, x: Array, y: Array) -> Array:
        """[..., D], twice, to [..., D]."""
        y = nnx.relu(y)
        y_r, y_z, y_h = jnp.split(self.from_y(y), 3, -1)
        x_r, x_z = jnp.split(self.from_x(x), 2, -1)
        bias = self.bias[...].astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
        z = nnx.sigmoid(y_z + x_z - bias)
        h = jnp.tanh(y_h + self.from_reset(nnx.sigmoid(y_r + x_r) * x))
        return (1 - z) * x + z * h
