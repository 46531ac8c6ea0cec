"""Heads: a sequence [T, B, H * K] as [T, B, H, K] and back, and what attention-like cores do to each head."""

import jax.numpy as jnp
from flax import nnx

from memrl.cores.base import CoreConfig
from memrl.errors import check
from memrl.types import Array


def split_heads(xs: Array, heads: int) -> Array:
    """[T, B, H * K] as [T, B, H, K]."""
    return xs.reshape(*xs.shape[:-1], heads, -1)


def merge_heads(xs: Array) -> Array:
    """[T, B, H, K] as [T, B, H * K]."""
    return xs.reshape(*xs.shape[:-2], -1)


def width_of_head(config: CoreConfig, name: str, total: int, heads: int) -> int:
    """`total / heads` for the width `name` of a core.

    Raises:
        MemrlError: when it is no whole number.
    """
    check(
        heads >= 1 and total % heads == 0,
        f"{config.owner}: {name} is {total}, expected a multiple of heads = {heads}",
    )
    return total // heads


def default_heads(features: int) -> int:
    """As many heads as divide `features` into widths of 64 or more, and at least one."""
    return max([h for h in range(1, features // 64 + 1) if features % h == 0], default=1)


def unit(x: Array, epsilon: float = 1e-6) -> Array:
    """`x` [..., K] at length 1, computed in float32; a zero vector stays zero, and its gradient finite."""
    square = jnp.sum(jnp.square(x.astype(jnp.float32)), -1, keepdims=True)
    return (x * jnp.where(square > 0, 1 / jnp.sqrt(square + epsilon), 0)).astype(x.dtype)


class HeadNorm(nnx.Module):
    """Root-mean-square normalisation of each head by itself, in float32, times a weight per channel."""

    def __init__(self, heads: int, width: int, *, epsilon: float = 1e-5):
        self.epsilon = epsilon
        self.scale = nnx.Param(jnp.ones((heads, width)))

    def __call__(self, xs: Array) -> Array:
        """[T, B, H, V] to the same, in the same dtype."""
        wide = xs.astype(jnp.float32)
        root = jnp.sqrt(jnp.mean(jnp.square(wide), -1, keepdims=True) + self.epsilon)
        return (wide / root * self.scale[...][None, None]).astype(xs.dtype)
