"""Newton-Schulz steps: a matrix made orthogonal by products alone, as the optimiser Muon does (Jordan et al. 2024)."""

import jax.numpy as jnp
from jax import lax

from memrl.types import Array

SMALLEST = 1e-6  # a sum of squares, so that a matrix of zeros stays one


def newton_schulz(x: Array, iterations: int = 5) -> Array:
    """A matrix with the singular vectors of `x` [..., i, o] and singular values near 1."""
    tall = x.shape[-2] > x.shape[-1]
    x = jnp.swapaxes(x, -1, -2) if tall else x
    x = x * lax.rsqrt(jnp.sum(jnp.square(x), (-2, -1), keepdims=True) + SMALLEST)
    a, b, c = 3.4445, -4.7750, 2.0315
    for _ in range(iterations):
        gram = x @ jnp.swapaxes(x, -1, -2)
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return jnp.swapaxes(x, -1, -2) if tall else x
