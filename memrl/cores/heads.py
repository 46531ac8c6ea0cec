"""Heads: a sequence [T, B, H * K] as [T, B, H, K] and back, and what attention-like cores do to each head."""

import dataclasses
import math
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx

from memrl.cores.base import CoreConfig
from memrl.errors import check
from memrl.types import Array


@dataclasses.dataclass(frozen=True)
class HeadsConfig(CoreConfig):
    """How many heads a core has, and how wide they are."""

    least_width: ClassVar[int] = 64  # of a head, where the number of heads is not given

    heads: int | None = None
    """Number H of heads; when not given, as many as divide D into at least 64 features each, or one."""
    key_width: int | None = None
    """Width K of each head's queries and keys; D / H when not given."""
    value_width: int | None = None
    """Width V of each head's values; D / H when not given."""

    def check(self) -> None:
        """Raises `MemrlError` for a size below one."""
        self.check_positive("heads", "key_width", "value_width")

    def head_sizes(self, features: int, *, keys: float = 1, values: float = 1) -> tuple[int, int, int]:
        """H, K and V; widths that are not given are `keys` and `values` times D / H, rounded up.

        Raises:
            MemrlError: when a width is not given, and H does not divide D.
        """
        H = self.heads or default_heads(features, self.least_width)
        K = self.key_width or math.ceil(keys * width_of_head(self, "features", features, H))
        V = self.value_width or math.ceil(values * width_of_head(self, "features", features, H))
        return H, K, V


def default_heads(width: int, least: int = 64) -> int:
    """The largest number of heads that divides `width` into at least `least` each; one where it is narrower."""
    return max(heads for heads in range(1, max(1, width // least) + 1) if width % heads == 0)


def split_heads(xs: Array, heads: int) -> Array:
    """[T, B, H * K] as [T, B, H, K]."""
    return xs.reshape(*xs.shape[:-1], heads, -1)


def merge_heads(xs: Array) -> Array:
    """[T, B, H, K] as [T, B, H * K]."""
    return xs.reshape(*xs.shape[:-2], -1)


def by_blocks(xs: Array, blocks: Array) -> Array:
    """`xs` [..., G * N] times the block-diagonal matrix of `blocks` [G, N, M]; [..., G * M]."""
    return merge_heads(jnp.einsum("...gn,gnm->...gm", split_heads(xs, len(blocks)), blocks))


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


def unit(x: Array, epsilon: float = 1e-6) -> Array:
    """`x` [..., K] at length 1, computed in float32; a zero vector stays zero, and its gradient finite."""
    square = jnp.sum(jnp.square(x.astype(jnp.float32)), -1, keepdims=True)
    return (x * jnp.where(square > 0, 1 / jnp.sqrt(square + epsilon), 0)).astype(x.dtype)


class HeadNorm(nnx.Module):
    """Root-mean-square normalisation of each head by itself, in float32, times a weight per channel.

    Where `centred`, the mean is taken off before: the layer normalisation of a head, and what group normalisation does
    to heads.
    """

    def __init__(self, heads: int, width: int, *, epsilon: float = 1e-5, centred: bool = False, use_bias: bool = False):
        self.epsilon, self.centred = epsilon, centred
        self.scale = nnx.Param(jnp.ones((heads, width)))
        self.bias = nnx.Param(jnp.zeros((heads, width))) if use_bias else None

    def __call__(self, xs: Array) -> Array:
        """[T, B, H, V] to the same, in the same dtype."""
        wide = xs.astype(jnp.float32)
        if self.centred:
            wide = wide - jnp.mean(wide, -1, keepdims=True)
        root = jnp.sqrt(jnp.mean(jnp.square(wide), -1, keepdims=True) + self.epsilon)
        normed = wide / root * self.scale[...][None, None]
        if self.bias is not None:
            normed = normed + self.bias[...][None, None]
        return normed.astype(xs.dtype)
