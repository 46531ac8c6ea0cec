"""Values of any space as flat float32 vectors.

Discrete becomes one-hot, MultiDiscrete one one-hot after another, Box is raveled; Dict and Tuple are
concatenated in the order in which the space lists its parts.
"""

import jax
import jax.numpy as jnp

from memrl.spaces import Box, Dict, Discrete, MultiDiscrete, Space, Tuple
from memrl.types import Array, Observation


def flatten(space: Space, value: Observation) -> Array:
    """`value`, an element of `space`, as float32 [D]."""
    match space:
        case Discrete():
            return jax.nn.one_hot(value, space.n, dtype=jnp.float32)
        case MultiDiscrete():
            return jnp.concatenate([jax.nn.one_hot(value[i], n) for i, n in enumerate(space.sizes)])
        case Box():
            return jnp.ravel(jnp.asarray(value, jnp.float32))
        case Dict() | Tuple():
            return jnp.concatenate([flatten(part, value[key]) for key, part in _parts(space)])
    raise TypeError(f"cannot flatten {space!r}")


def flat_space(space: Space) -> Box:
    """The Box [D] that `flatten` maps into."""
    low, high = _bounds(space)
    return Box(low, high, low.shape, jnp.float32)


def _bounds(space: Space) -> tuple[Array, Array]:
    match space:
        case Discrete():
            return jnp.zeros(space.n), jnp.ones(space.n)
        case MultiDiscrete():
            return jnp.zeros(sum(space.sizes)), jnp.ones(sum(space.sizes))
        case Box():
            low, high = (jnp.asarray(bound, jnp.float32) for bound in (space.low, space.high))
            return jnp.broadcast_to(low, space.shape).ravel(), jnp.broadcast_to(high, space.shape).ravel()
        case Dict() | Tuple():
            lows, highs = zip(*(_bounds(part) for _, part in _parts(space)), strict=True)
            return jnp.concatenate(lows), jnp.concatenate(highs)
    raise TypeError(f"cannot flatten {space!r}")


def _parts(space: Dict | Tuple) -> list[tuple[str | int, Space]]:
    """Key and space of each part."""
    return list(space.spaces.items() if isinstance(space, Dict) else enumerate(space.spaces))
