"""Random choices that take one hash each: what most steps of most environments cost is their random numbers."""

import jax
import jax.numpy as jnp

from memrl.types import Array, Key

SMALL = 16


def integer_below(key: Key, limit: Array | int, shape: tuple[int, ...] = ()) -> Array:
    """Uniform integers in [0, limit), int32 [*shape], for limits below 2^31; 0 where the limit is 0.

    The upper 32 bits of 32 random ones times the limit: no number is likelier than another by more than the limit's
    part of 2^32. `jax.random.randint` takes four hashes for the same.
    """
    bits = jax.random.bits(key, shape, jnp.uint32)
    limit = jnp.broadcast_to(jnp.asarray(limit).astype(jnp.uint32), shape)
    (high, low), (limit_high, limit_low) = ((x >> 16, x & 0xFFFF) for x in (bits, limit))
    middle = high * limit_low + ((low * limit_low) >> 16)  # halves of 16 bits: no sum of products overflows
    middle_low = low * limit_high + (middle & 0xFFFF)
    return (high * limit_high + (middle >> 16) + (middle_low >> 16)).astype(jnp.int32)


def pick(number: Array, weights: Array) -> Array:
    """The first index, an int32 scalar, at which the running total of `weights` [N] exceeds `number`, else N.

    With a number uniform below the total, every index comes up as often as its weight says.
    """
    weights = weights.astype(jnp.int32)
    if len(weights) > SMALL:
        return jnp.sum(jnp.cumsum(weights) <= number, dtype=jnp.int32)
    total, index = jnp.int32(0), jnp.int32(0)
    for weight in weights:
        total = total + weight
        index = index + (total <= number)
    return index.astype(jnp.int32)


def draw_from(key: Key, weights: Array) -> Array:
    """An index of `weights` [N], int32 or bool, with a probability in proportion to its weight; N where all are 0."""
    return pick(integer_below(key, jnp.sum(weights.astype(jnp.int32))), weights)
