"""Kernels over an array that is split over devices along the batch axis.

XLA cannot look into a Pallas kernel: it would bring the whole array to every device and run the kernel on all of it.
Here it is told that each device may run the kernel on the rows of the batch that it has.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax
from jax.custom_batching import custom_vmap
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

from memrl.errors import check
from memrl.types import Array

BATCH = "B"


def over_batch(function: Callable[..., Any], axes: str) -> Callable[..., Any]:
    """`function`, partitioned over the batch axis where its arrays are.

    What it computes for a row of the batch may depend on that row alone. A result without a batch axis is a sum over
    the batch. Works under `jit`, `vmap` and `scan`; differentiate outside of it. A batch that its devices do not divide
    is brought together. Inside of `shard_map` the arrays are those of one device already, and `function` is called as
    it is; Pallas wants `check_vma=False` there.

    Args:
        function: takes arrays, or trees of arrays, and returns a tuple of them.
        axes: the letters of the axes of all arguments and all results, of which "B" is the batch: "TBN BN -> TBN N".
            Those of a tree are those of all its leaves.
            An axis of length 1 does not count as the batch when other arguments have a longer one.
    """
    inputs, outputs = (side.split() for side in axes.split("->"))

    def run(*arguments):
        if jax.sharding.get_abstract_mesh().manual_axes:
            return function(*arguments)
        check(len(arguments) == len(inputs), f"kernel: {len(arguments)} arguments, expected axes {axes!r}")
        leaves, arguments_tree = jax.tree.flatten(arguments)
        letters = _of_leaves(inputs, arguments)
        size = max(x.shape[where.index(BATCH)] for where, x in zip(letters, leaves, strict=True) if BATCH in where)
        shapes = jax.eval_shape(function, *arguments)
        result_letters = _of_leaves(outputs, shapes)
        shapes, results_tree = jax.tree.flatten(shapes)

        def flat(*leaves):
            return jax.tree.leaves(function(*jax.tree.unflatten(arguments_tree, leaves)))

        def named(letters, arrays):
            return [_names(where, x.shape, size) for where, x in zip(letters, arrays, strict=True)]

        results = _partitioned(flat, named(letters, leaves), named(result_letters, shapes))(*leaves)
        return jax.tree.unflatten(results_tree, results)

    return run


def _of_leaves(letters: Sequence[str], trees: Sequence[Any]) -> list[str]:
    """The letters of each tree, once for each of its leaves."""
    return [where for where, tree in zip(letters, trees, strict=True) for _ in jax.tree.leaves(tree)]


def _names(letters: str, shape: Sequence[int], size: int) -> tuple[str, ...]:
    """Of each axis "B" or "", which is not to be split."""
    return tuple(BATCH if letter == BATCH and n == size else "" for letter, n in zip(letters, shape, strict=True))


_Names = list[tuple[str, ...]]


def _partitioned(function: Callable[..., list[Array]], inputs: _Names, outputs: _Names) -> Callable[..., list[Array]]:
    """`function` of arrays whose axes have a name where they may be split over devices."""

    def partition(mesh, arguments, results):
        split = _split(mesh, inputs, arguments)
        given = [_sharding(mesh, names, split) for names in inputs]
        gives = [_sharding(mesh, names, split) for names in outputs]
        devices = split.get(BATCH)

        def local(*arrays):
            return [
                x if devices is None or BATCH in names else lax.psum(x, devices)
                for x, names in zip(function(*arrays), outputs, strict=True)
            ]

        return mesh, local, gives, tuple(given)

    here = custom_partitioning(lambda *arrays: function(*arrays))
    here.def_partition(partition, sharding_rule=lambda *_: _rule(inputs, outputs))
    mapped = custom_vmap(lambda *arrays: here(*arrays))

    @mapped.def_vmap
    def over_more(axis_size: int, batched: Sequence[bool], *arrays: Array) -> Any:
        # The mapped axis may be split too; it comes first, under a name of its own.
        seed = f"S{sum('S' in name for name in set().union(*inputs))}"
        many = jax.vmap(function, in_axes=[0 if b else None for b in batched])
        mapped_inputs = [(seed, *names) if b else names for b, names in zip(batched, inputs, strict=True)]
        results = _partitioned(many, mapped_inputs, [(seed, *names) for names in outputs])(*arrays)
        return results, [True] * len(results)

    return mapped


def _split(mesh: Any, inputs: _Names, arguments: Sequence[Any]) -> dict[str, Any]:
    """Over which axes of the mesh each name is split: those that the arguments come with, where they divide it."""
    split: dict[str, Any] = {}
    taken: set[str] = set()
    for names, x in zip(inputs, arguments, strict=True):
        for name, n, devices in zip(names, x.shape, tuple(x.sharding.spec) + (None,) * len(names), strict=False):
            if not name or name in split or not devices:
                continue
            axes = (devices,) if isinstance(devices, str) else tuple(devices)
            count = 1
            for axis in axes:
                count *= mesh.shape[axis]
            if n % count == 0 and not taken & set(axes):
                split[name] = axes
                taken |= set(axes)
    return split


def _sharding(mesh: Any, names: tuple[str, ...], split: dict[str, Any]) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(*(split.get(name) for name in names)))


def _rule(inputs: _Names, outputs: _Names) -> tuple[str, dict[str, Any]]:
    """In Shardy's notation; axes that are not to be split have names of their own."""
    alone: list[str] = []

    def letters(names: tuple[str, ...]) -> str:
        words = []
        for name in names:
            if not name:
                alone.append(name := f"x{len(alone)}")
            words.append(name.lower())
        return " ".join(words) or "..."

    left = ", ".join(letters(names) for names in inputs)
    right = ", ".join(letters(names) for names in outputs)
    return f"{left} -> {right}", {"need_replication_factors": tuple(alone)}
