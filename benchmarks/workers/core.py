"""One memory core of one library: the gradient of its unroll, and its single step.

The command line holds JSON: library, layer, options, T, B, D, and the GB that the gradient may take. Every library gets
its arrays in its own layout, and the same resets: memrl's is [T, B, D], memax takes one sequence, memorax [B, T, D].
"""

import itertools
import json
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from turns import answer_turns

AT_LEAST = 0.05  # seconds of steps in a turn
LONG = 3.0  # seconds


class Layer(NamedTuple):
    parameters: Any
    state: Any
    unroll: Callable[..., Any]  # parameters, state, xs, resets -> the last state, ys
    step: Callable[..., Any]  # the same for one step: x [B, D], reset [B]
    time_axis: int


def memrl_layer(name: str, B: int, D: int, options: dict[str, Any]) -> Layer:
    from flax import nnx

    from memrl.cores import make_core

    core = make_core(name, D, rngs=nnx.Rngs(0), **options)
    graph, parameters, rest = nnx.split(core, nnx.Param, ...)

    def unroll(parameters, state, xs, resets):
        return nnx.merge(graph, parameters, rest).unroll(state, xs, resets)

    def step(parameters, state, x, reset):
        return nnx.merge(graph, parameters, rest).step(state, x, reset)

    return Layer(parameters, core.initial_state(B), unroll, step, 0)


def memax_layer(name: str, B: int, D: int, options: dict[str, Any]) -> Layer:
    import equinox  # pyright: ignore[reportMissingImports]
    from memax.equinox import train_utils  # pyright: ignore[reportMissingImports]

    layer = getattr(train_utils, name)(**options, key=jax.random.key(0))
    parameters, rest = equinox.partition(layer, equinox.is_inexact_array)

    def unroll(parameters, state, xs, resets):
        layer = equinox.combine(parameters, rest)
        states, ys = jax.vmap(lambda h, x, start: layer(h, (x, start)))(state, xs, resets)
        return jax.tree.map(lambda s: s[:, -1], states), ys

    state = train_utils.add_batch_dim(layer.initialize_carry(), B)
    return Layer(parameters, state, unroll, by_unroll(unroll), 1)


def memorax_layer(name: str, B: int, D: int, options: dict[str, Any]) -> Layer:
    from flax import linen
    from flax.linen import initializers
    from memorax.networks import sequence_models  # pyright: ignore[reportMissingImports]

    cell = getattr(sequence_models, name, None) or getattr(linen, name)
    if issubclass(cell, sequence_models.SequenceModel):
        dtypes = {"dtype": jnp.float32, "param_dtype": jnp.float32}
        initial = {"kernel_init": initializers.lecun_normal(), "bias_init": initializers.zeros_init()}
        model = cell(**options, **dtypes, **initial)
    elif issubclass(cell, sequence_models.MemoroidCellBase):
        model = sequence_models.Memoroid(cell(**options))
    else:
        model = sequence_models.RNN(cell(**options))
    state = model.initialize_carry(jax.random.key(0), (B, D))
    parameters = model.init(jax.random.key(0), jnp.zeros((B, 1, D)), jnp.zeros((B, 1), bool), state)

    def unroll(parameters, state, xs, resets):
        return model.apply(parameters, xs, resets, state)

    return Layer(parameters, state, unroll, by_unroll(unroll), 1)


def by_unroll(unroll: Callable[..., Any]) -> Callable[..., Any]:
    def step(parameters, state, x, reset):
        state, ys = unroll(parameters, state, x[:, None], reset[:, None])
        return state, ys[:, 0]

    return step


LIBRARIES = {"memrl": memrl_layer, "memax": memax_layer, "memorax": memorax_layer}


class Programs:
    """What is timed, compiled; and a state for the steps, fresh or T steps old."""

    def __init__(self, layer: Layer, T: int, B: int, D: int, gigabytes: float):
        keys = jax.random.split(jax.random.key(1), 3)
        xs, weights = jax.random.normal(keys[0], (T, B, D)), jax.random.normal(keys[1], (T, B, D))
        resets = jax.random.bernoulli(keys[2], 1 / 64, (T, B))
        self.inputs = list(zip(xs[:64], resets[:64], strict=True))  # of the steps
        xs, weights, resets = (jnp.moveaxis(x, 0, layer.time_axis) for x in (xs, weights, resets))

        def loss(parameters, xs, state, resets, weights):
            state, ys = layer.unroll(parameters, state, xs, resets)
            return jnp.sum(weights * ys), state

        gradient = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
        self.arguments = jax.block_until_ready((layer.parameters, xs, layer.state, resets, weights))
        started = time.perf_counter()
        self.gradient = gradient.lower(*self.arguments).compile()
        self.compile_seconds = time.perf_counter() - started
        needed = memory_in_gb(self.gradient)
        if needed > gigabytes:
            raise MemoryError(f"needs {needed:.1f} GB")
        self.step = jax.jit(layer.step)
        self._steps(layer.state, 2)
        self.states = {"step": layer.state, "late step": self._steps(layer.state, T)}
        self.warm = timed(self._call_gradient)["seconds"] < LONG
        self.steps = max(10, round(AT_LEAST * 10 / timed(lambda: self._steps(layer.state, 10))["seconds"]))

    def measure(self, what: str) -> dict[str, float]:
        """Seconds of a call, after one that brings back the memory that the system took away in the meantime.

        A call so long that this makes no difference is not repeated.
        """
        if what == "gradient":
            if self.warm:
                self._call_gradient()
            return timed(self._call_gradient)
        self._steps(self.states[what], 10)
        numbers = timed(lambda: self._steps(self.states[what], self.steps))
        return {name: seconds / self.steps for name, seconds in numbers.items()}

    def _call_gradient(self) -> None:
        jax.block_until_ready(self.gradient(*self.arguments))

    def _steps(self, state: Any, steps: int) -> Any:
        """Each is waited for, as by an agent that acts on it."""
        for x, reset in itertools.islice(itertools.cycle(self.inputs), steps):
            state, y = self.step(self.arguments[0], state, x, reset)
            y.block_until_ready()
        return state


def timed(call: Callable[[], Any]) -> dict[str, float]:
    """Seconds that passed, and those that the cores worked for this process."""
    started, worked = time.perf_counter(), time.process_time()
    call()
    return {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - worked}


def memory_in_gb(compiled: Any) -> float:
    sizes = compiled.memory_analysis()
    return (sizes.temp_size_in_bytes + sizes.output_size_in_bytes + sizes.argument_size_in_bytes) / 1e9


def main() -> None:
    task = json.loads(sys.argv[1])
    T, B, D = task["T"], task["B"], task["D"]
    try:
        layer = LIBRARIES[task["library"]](task["layer"], B, D, task["options"])
        programs = Programs(layer, T, B, D, task["gigabytes"])
    except Exception as error:  # a peer may be absent, too large, or break in any way
        answer_turns(lambda _: {}, error=" ".join(f"{type(error).__name__}: {error}".split())[:200])
        return
    parameters = sum(x.size for x in jax.tree.leaves(layer.parameters))
    answer_turns(programs.measure, parameters=parameters, compile_seconds=programs.compile_seconds)


if __name__ == "__main__":
    main()
