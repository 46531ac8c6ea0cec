"""Observation and action spaces: gymnax's, and `MultiDiscrete`, which gymnax lacks."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from gymnax.environments.spaces import Box, Dict, Discrete, Space, Tuple

__all__ = ["Box", "Dict", "Discrete", "MultiDiscrete", "Space", "Tuple"]


class MultiDiscrete(Space):
    """Several independent categorical values: int32 [len(sizes)], the i-th in [0, sizes[i])."""

    def __init__(self, sizes: Sequence[int]):
        if not sizes or min(sizes) < 1:
            raise ValueError(f"MultiDiscrete needs at least one size, each at least 1, got {tuple(sizes)}")
        self.sizes = tuple(int(n) for n in sizes)
        self.shape = (len(self.sizes),)
        self.dtype = jnp.int32

    def __repr__(self) -> str:
        return f"MultiDiscrete{self.sizes}"

    def sample(self, key: jax.Array) -> jax.Array:
        """A uniform sample."""
        return jax.random.randint(key, self.shape, 0, jnp.asarray(self.sizes))

    def contains(self, x: jax.Array) -> jax.Array:
        """Whether `x` [len(sizes)] lies in the space."""
        return jnp.all((x >= 0) & (x < jnp.asarray(self.sizes)))
