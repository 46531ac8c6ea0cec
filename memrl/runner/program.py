"""The compiled program of a run: all seeds' first states, and a chunk of updates."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from memrl.agents import Agent
from memrl.experiment import Experiment, seed_keys
from memrl.runner.memory import release_memory

LARGEST_CHUNK = 64  # updates


def initial_states(agent: Agent, experiment: Experiment) -> Any:
    """The train states of all seeds before the first update, leaves [S, ...]."""
    init = jax.jit(
        over_seeds(agent.init, experiment.seeds),
        # It runs once: compiling it well takes longer than running it badly.
        compiler_options={"xla_backend_optimization_level": 0},
    )
    states = init(seed_keys(experiment))
    release_memory()
    return states


def over_seeds(function: Callable[..., Any], seeds: int) -> Callable[..., Any]:
    """`function` over a leading seed axis S; for a single seed without the cost of batched matrix products."""
    if seeds > 1:
        return jax.vmap(function)

    def one_seed(argument: Any) -> Any:
        result = function(jax.tree.map(lambda x: x[0], argument))
        return jax.tree.map(lambda x: x[None], result)

    return one_seed


def compile_chunk(agent: Agent, seeds: int, states: Any) -> Callable[[Any, Any], tuple[Any, dict[str, Any]]]:
    """Compiles (states, count) -> (states, metrics [LARGEST_CHUNK, S]), which does `count` updates.

    The count is an argument, so that chunks of all lengths are one program, and so give the same bits. The states that
    go in are donated.
    """
    update = jax.jit(over_seeds(agent.update, seeds))  # jitted, so that both uses are one trace

    def run_chunk(states: Any, count: Any) -> tuple[Any, Any]:
        shapes = jax.eval_shape(update, states)[1]
        buffers = jax.tree.map(lambda m: jnp.zeros((LARGEST_CHUNK, *m.shape), m.dtype), shapes)

        def body(i, carry):
            states, buffers = carry
            states, metrics = update(states)
            return states, jax.tree.map(lambda b, m: b.at[i].set(m), buffers, metrics)

        return lax.fori_loop(0, count, body, (states, buffers))

    lowered = jax.jit(run_chunk, donate_argnums=0).lower(states, jnp.int32(1))
    release_memory()
    compiled = lowered.compile()
    release_memory()
    return compiled
