"""The axes over which a run may be split, for programs that do not ask whether it is."""

from typing import TypeVar

import jax
from jax import lax
from jax.sharding import PartitionSpec

DATA = "data"
"""The mesh axis over which environments are split."""
SEED = "seed"
"""The mesh axis over which seeds are split."""

Tree = TypeVar("Tree")


def split_environments(tree: Tree) -> Tree:
    """The leaves [B, ...] with their environments split over the mesh that is set; as they are where there is none."""
    if DATA not in jax.sharding.get_abstract_mesh().axis_names:
        return tree
    return jax.tree.map(lambda x: lax.with_sharding_constraint(x, PartitionSpec(DATA)), tree)
