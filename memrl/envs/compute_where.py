"""A function computed only for those members of a batch that need it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from memrl.types import Array

BLOCK = 32  # members that are computed side by side


def compute_where(condition: Array, function: Callable[..., Any], arguments: tuple[Any, ...], otherwise: Any) -> Any:
    """`function(*arguments)` where the condition [] holds, else `otherwise`, which has the same shapes and types.

    Under `vmap` the members for which it holds are gathered and computed BLOCK at a time, for as many blocks as it
    takes; a plain `where` or `cond` would compute the function for every member.
    """

    @custom_vmap
    def choose(condition: Array, arguments: tuple[Any, ...], otherwise: Any) -> Any:
        return lax.cond(condition, lambda: function(*arguments), lambda: otherwise)

    @choose.def_vmap
    def choose_in_batch(size: int, batched: Any, condition: Array, arguments: tuple[Any, ...], otherwise: Any) -> Any:
        def spread(x, is_batched):
            return x if is_batched else jnp.broadcast_to(x, (size, *jnp.shape(x)))

        condition = spread(condition, batched[0])
        otherwise = jax.tree.map(spread, otherwise, batched[2])
        axes = jax.tree.map(lambda is_batched: 0 if is_batched else None, batched[1])
        blocks = -(-size // BLOCK)
        members = jnp.nonzero(condition, size=blocks * BLOCK, fill_value=size)[0].reshape(blocks, BLOCK)

        def compute_block(i, results):
            chosen = members[i]
            taken = jax.tree.map(
                lambda x, is_batched: jnp.take(x, chosen, axis=0, mode="clip") if is_batched else x,
                arguments,
                batched[1],
            )
            computed = jax.vmap(function, axes, axis_size=BLOCK)(*taken)
            return jax.tree.map(lambda old, new: old.at[chosen].set(new, mode="drop"), results, computed)

        needed = (jnp.sum(condition) + BLOCK - 1) // BLOCK
        return lax.fori_loop(0, needed, compute_block, otherwise), jax.tree.map(lambda _: True, otherwise)

    return choose(condition, arguments, otherwise)
