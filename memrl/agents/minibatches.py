"""Minibatches that are drawn without moving anything between devices.

The items of a rollout stand in blocks of as many neighbours as an epoch has minibatches, and each minibatch takes one
of every block, drawn anew in each epoch. So a device that holds whole blocks draws from what it holds, and the draw is
the same for any number of devices. Beside a plain shuffle the only loss is that neighbours never meet.
"""

import jax
import jax.numpy as jnp

from memrl.types import Array, Key


def draw(key: Key, epochs: int, minibatches: int, items: int) -> Array:
    """What the minibatches of all epochs take of every block, [epochs * minibatches, items / minibatches].

    Each epoch takes each item once. `take` is for one row of it.
    """
    # A sort of random bits is a permutation, and compiles in a fraction of jax.random.permutation's time.
    bits = jax.random.bits(key, (epochs, items // minibatches, minibatches))
    places = jnp.argsort(bits, axis=-1)
    return places.transpose(0, 2, 1).reshape(epochs * minibatches, -1)


def take(x: Array, chosen: Array, axis: int, rows: int = 1) -> Array:
    """One item of every block.

    Args:
        x: items along `axis`, each of them `rows` side by side.
        chosen: [K], the place within each of the K blocks.
        axis: of the items.
        rows: how many of `axis` make up an item.

    Returns:
        `x` with K items along `axis`.
    """
    before, after, K = x.shape[:axis], x.shape[axis + 1 :], len(chosen)
    blocks = x.reshape(*before, K, x.shape[axis] // (K * rows), rows, *after)
    places = chosen.reshape((1,) * axis + (K, 1, 1) + (1,) * len(after))
    items = jnp.take_along_axis(blocks, places, axis + 1, mode="clip")
    return items.reshape(*before, K * rows, *after)
