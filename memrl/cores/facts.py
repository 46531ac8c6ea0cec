"""What a core costs, from shapes and from a count of the operations of one step: the terms on which cores compare."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from memrl.cores import CoreConfig, build_core


class CoreFacts(NamedTuple):
    """The cost of a core at one width."""

    parameters: int
    state_bytes: int
    """Of one environment."""
    step_flops: float
    """Of one step of one environment: multiplications and additions as XLA counts them before it optimises."""
    parallel: bool
    """Whether an unroll can compute all its steps at once."""


def core_facts(config: CoreConfig, features: int) -> CoreFacts:
    """The facts of the core that `config` describes with D = `features`; nothing is computed.

    Raises:
        MemrlError: where such a core cannot be made.
    """
    core = nnx.eval_shape(lambda: build_core(config, features, rngs=nnx.Rngs(0)))
    graphdef, arrays = nnx.split(core)
    state = jax.eval_shape(lambda: core.initial_state(1))

    def step(arrays, state, x, reset):
        return nnx.merge(graphdef, arrays).step(state, x, reset)

    x, reset = jax.ShapeDtypeStruct((1, features), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.bool_)
    cost = jax.jit(step).lower(arrays, state, x, reset).cost_analysis()
    assert cost is not None
    return CoreFacts(
        parameters=count(nnx.state(core, nnx.Param)),
        state_bytes=size_in_bytes(state),
        step_flops=cost["flops"],
        parallel=core.parallel,
    )


def count(parameters: Any) -> int:
    """How many numbers a tree of arrays or shapes holds."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(parameters))


def size_in_bytes(tree: Any) -> int:
    """How many bytes a tree of arrays or shapes takes."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))
