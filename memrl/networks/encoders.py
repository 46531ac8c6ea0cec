"""From any observation space to D features."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from memrl.cores.base import Conv, orthogonal
from memrl.errors import MemrlError
from memrl.networks.layers import Activation, Dense, activation_function
from memrl.spaces import Box, Dict, Discrete, MultiDiscrete, Space, Tuple
from memrl.types import Array, Observation


class Encoder(nnx.Module):
    """Encodes observations with any leading axes, [B, ...] or [T, B, ...], as D features.

    Vectors enter as they are, discrete values as one-hot vectors, images [H, W, channels] through convolutions; the
    parts of a dict or tuple space are concatenated, and dense layers follow. The features have dtype `precision`, in
    which all is computed.
    """

    def __init__(
        self,
        space: Space,
        sizes: Sequence[int],
        activation: Activation,
        precision: str = "float32",
        *,
        rngs: nnx.Rngs,
    ):
        self.dtype = jnp.dtype(precision)
        self.parts = nnx.List([_make_part(leaf, activation, rngs) for leaf in _leaves(space)])
        self.dense = Dense(sum(part.outputs for part in self.parts), sizes, activation, rngs=rngs)

    def __call__(self, observation: Observation) -> Array:
        """Features [..., D]."""
        leaves = jax.tree.leaves(observation)
        parts = [part(x, self.dtype) for part, x in zip(self.parts, leaves, strict=True)]
        return self.dense(parts[0] if len(parts) == 1 else jnp.concatenate(parts, -1))


def _leaves(space: Space) -> list[Space]:
    """The leaf spaces in the order in which `jax.tree.leaves` meets their observations."""
    if isinstance(space, Dict):
        return [leaf for name in sorted(space.spaces) for leaf in _leaves(space.spaces[name])]
    if isinstance(space, Tuple):
        return [leaf for part in space.spaces for leaf in _leaves(part)]
    return [space]


def _make_part(space: Space, activation: Activation, rngs: nnx.Rngs) -> "Flat | OneHot | Image":
    if isinstance(space, Discrete):
        return OneHot((space.n,), scalar=True)
    if isinstance(space, MultiDiscrete):
        return OneHot(space.sizes, scalar=False)
    if isinstance(space, Box):
        if len(space.shape) == 3 and min(space.shape[:2]) >= 5:
            return Image(space, activation, rngs=rngs)
        return Flat(space)
    raise MemrlError(f"observation space is {space!r}, expected Box, Discrete, MultiDiscrete, Dict or Tuple")


class Flat(nnx.Module):
    """A Box of any shape as one vector."""

    def __init__(self, space: Box):
        self.rank = len(space.shape)
        self.outputs = math.prod(space.shape)

    def __call__(self, x: Array, dtype: jnp.dtype) -> Array:
        """[..., *shape] to [..., outputs]."""
        return x.astype(dtype).reshape(*x.shape[: x.ndim - self.rank], self.outputs)


class OneHot(nnx.Module):
    """Discrete values as one-hot vectors, side by side."""

    def __init__(self, sizes: tuple[int, ...], *, scalar: bool):
        self.sizes, self.scalar = sizes, scalar
        self.outputs = sum(sizes)

    def __call__(self, x: Array, dtype: jnp.dtype) -> Array:
        """[...] (one value) or [..., len(sizes)] to [..., outputs]."""
        x = x[..., None] if self.scalar else x
        return jnp.concatenate([jax.nn.one_hot(x[..., i], n, dtype=dtype) for i, n in enumerate(self.sizes)], -1)


class Image(nnx.Module):
    """Convolutions for images [H, W, channels]; integer pixels are scaled from [0, 255] to [0, 1].

    From 36 pixels on those of Mnih et al. 2015, below that two of 3 x 3 without stride, as is usual for MinAtar.
    """

    def __init__(self, space: Box, activation: Activation, *, rngs: nnx.Rngs):
        height, width, channels = space.shape
        large = min(height, width) >= 36
        layers = [(32, 8, 4), (64, 4, 2), (64, 3, 1)] if large else [(16, 3, 1), (32, 3, 1)]
        convolutions = []
        for outputs, size, stride in layers:
            convolutions.append(
                Conv(
                    channels,
                    outputs,
                    (size, size),
                    strides=stride,
                    padding="VALID",
                    kernel_init=orthogonal(math.sqrt(2)),
                    rngs=rngs,
                )
            )
            height, width = ((n - size) // stride + 1 for n in (height, width))
            channels = outputs
        self.convolutions = nnx.List(convolutions)
        self.activation = activation_function(activation)
        self.outputs = height * width * channels

    def __call__(self, x: Array, dtype: jnp.dtype) -> Array:
        """[..., H, W, channels] to [..., outputs]."""
        leading = x.shape[:-3]
        x = x.astype(dtype) / 255 if jnp.issubdtype(x.dtype, jnp.integer) else x.astype(dtype)
        x = x.reshape(-1, *x.shape[-3:])
        for convolution in self.convolutions:
            x = self.activation(convolution(x))
        return x.reshape(*leading, self.outputs)
