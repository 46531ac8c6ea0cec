"""The compiled program of a run: all seeds' first states, and a chunk of updates."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from memrl.agents import Agent
from memrl.experiment import Experiment, seed_keys
from memrl.runner.layout import ONE_DEVICE, Layout
from memrl.runner.memory import release_memory
from memrl.types import Array

LARGEST_CHUNK = 64  # updates
Metrics = dict[str, np.ndarray]  # [updates, S] each


def initial_states(agent: Agent, experiment: Experiment, layout: Layout = ONE_DEVICE) -> Any:
    """The train states of all seeds before the first update, leaves [S, ...]."""
    init, keys = layout.over_seeds(agent.init, experiment.seeds), seed_keys(experiment)
    init = jax.jit(
        init,
        out_shardings=layout.shardings(agent.has_environments(jax.eval_shape(init, keys))),
        # It runs once: compiling it well takes longer than running it badly.
        compiler_options={"xla_backend_optimization_level": 0},
    )
    with layout.active():
        states = init(keys)
    release_memory()
    return states


def compile_chunk(
    update: Callable[[Any], tuple[Any, dict[str, Array]]], seeds: int, states: Any, layout: Layout = ONE_DEVICE
) -> Callable[[Any, int], tuple[Any, Metrics]]:
    """Compiles the `update` of one seed to (states, count) -> (states, metrics), `count` updates of all seeds.

    They are LARGEST_CHUNK at most. The count is an argument, so that chunks of all lengths are one program, and so give
    the same bits. The states that go in are donated; those that come out lie on the same devices. Metrics are on the
    host.
    """
    update = jax.jit(layout.over_seeds(update, seeds))  # jitted, so that both uses are one trace
    with layout.active():
        shapes = jax.eval_shape(update, states)[1]
    # Metrics of one dtype share a buffer [LARGEST_CHUNK, M, S]: one kernel to compile in the place of M. The names of
    # dtypes have an order, dtypes do not: without it a second start may miss the compilation cache.
    dtypes = sorted({m.dtype.name for m in shapes.values()})
    names = {dtype: [n for n, m in shapes.items() if m.dtype.name == dtype] for dtype in dtypes}

    def run_chunk(states: Any, count: Any) -> tuple[Any, Any]:
        def body(i, carry):
            states, buffers = carry
            states, metrics = update(states)
            rows = {dtype: jnp.stack([metrics[n] for n in names[dtype]]) for dtype in names}
            return states, {d: lax.dynamic_update_index_in_dim(buffers[d], rows[d], i, 0) for d in names}

        buffers = {dtype: jnp.zeros((LARGEST_CHUNK, len(names[dtype]), seeds), dtype) for dtype in names}
        return lax.fori_loop(0, count, body, (states, buffers))

    placed = None if layout.mesh is None else (jax.tree.map(lambda x: x.sharding, states), layout.everywhere)
    with layout.active():
        lowered = jax.jit(run_chunk, donate_argnums=0, out_shardings=placed).lower(states, jnp.int32(1))
    release_memory()
    compiled = lowered.compile()
    release_memory()

    def run(states: Any, count: int) -> tuple[Any, Metrics]:
        states, buffers = compiled(states, jnp.int32(count))
        rows = {n: np.asarray(buffers[d])[:count, i] for d in names for i, n in enumerate(names[d])}
        return states, {n: rows[n] for n in shapes}

    return run


def enable_compilation_cache() -> None:
    """Keeps compiled programs in the user's cache folder, so that a second start is quick.

    JAX's own settings win, as does an empty JAX_COMPILATION_CACHE_DIR.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    jax.config.update("jax_compilation_cache_dir", str(home / "memrl" / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
