"""Polynomial features of keys and queries (Behrouz et al. 2025, ATLAS), without products of two of their entries.

phi(x) = [a_1 x, a_2 x^2, ..., a_p x^p]    powers of each entry, one after the other
"""

import math

import jax.numpy as jnp
from flax import nnx

from memrl.types import Array


class PolynomialFeatures(nnx.Module):
    """Powers up to p, the `degree`; the a_i are parameters, which start at 1 / i! as in an exponential's series."""

    def __init__(self, degree: int):
        self.coefficients = nnx.Param(jnp.array([1 / math.factorial(i) for i in range(1, degree + 1)]))

    def __call__(self, x: Array) -> Array:
        """[..., d] to [..., p d]."""
        return jnp.concatenate([a * x**i for i, a in enumerate(self.coefficients[...], 1)], -1)
