"""Minibatches take each item once per epoch, one of every block."""

import jax
import jax.numpy as jnp
import numpy as np

from memrl.agents.minibatches import draw, take


def test_take_by_hand():
    """Six items in blocks of three: 1 of the first block, 2 of the second."""
    items = jnp.array([[0, 1, 2, 3, 4, 5], [10, 11, 12, 13, 14, 15]])
    chosen = jnp.array([1, 2])
    np.testing.assert_array_equal(take(items, chosen, axis=1), [[1, 5], [11, 15]])
    np.testing.assert_array_equal(take(items[0], chosen, axis=0), [1, 5])
    pixels = jnp.stack([items, -items], -1)
    np.testing.assert_array_equal(take(pixels, chosen, axis=1)[..., 1], [[-1, -5], [-11, -15]])
    assert take(jnp.zeros((6, 3, 0)), chosen, axis=0).shape == (2, 3, 0)


def test_take_items_of_several_rows():
    """Two blocks of two items of two rows each."""
    rows = jnp.arange(8)
    np.testing.assert_array_equal(take(rows, jnp.array([1, 0]), axis=0, rows=2), [2, 3, 4, 5])
    both = jnp.stack([rows, rows + 10])
    np.testing.assert_array_equal(take(both, jnp.array([0, 1]), axis=1, rows=2), [[0, 1, 6, 7], [10, 11, 16, 17]])


def test_an_epoch_takes_each_item_once():
    epochs, minibatches, items = 5, 4, 24
    chosen = draw(jax.random.key(0), epochs, minibatches, items)
    assert chosen.shape == (epochs * minibatches, items // minibatches)
    taken = np.stack([take(jnp.arange(items), one, axis=0) for one in chosen]).reshape(epochs, minibatches, -1)
    for epoch in taken:
        np.testing.assert_array_equal(np.sort(epoch.ravel()), np.arange(items))
    np.testing.assert_array_equal(taken // minibatches, np.broadcast_to(np.arange(items // minibatches), taken.shape))
    assert len({epoch.tobytes() for epoch in taken}) == epochs


def test_draws_are_uniform_and_blocks_independent():
    """All orders of a block come up as often; a block says nothing of its neighbour. 5 deviations of 1,200 draws."""
    chosen = np.asarray(draw(jax.random.key(1), 1200, 3, 6)).reshape(1200, 3, 2)
    orders, counts = np.unique(chosen[:, :, 0], axis=0, return_counts=True)
    assert len(orders) == 6
    np.testing.assert_allclose(counts, 200, atol=5 * np.sqrt(200))
    alike = np.mean(chosen[:, 0, 0] == chosen[:, 0, 1])
    np.testing.assert_allclose(alike, 1 / 3, atol=5 * np.sqrt(2 / 9 / 1200))
