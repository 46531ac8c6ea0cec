"""Seconds to trace and compile the gradient of four layers of the core that is named on the command line."""

import json
import sys
import time

import jax
import jax.numpy as jnp
from flax import nnx

from memrl.cores import core_config
from memrl.networks.stack import MemoryStack, StackConfig

T, B, D = 128, 16, 128

jax.config.update("jax_enable_compilation_cache", False)
stack = MemoryStack(D, [core_config(sys.argv[1])], StackConfig(layers=4), rngs=nnx.Rngs(0))
graph, parameters, rest = nnx.split(stack, nnx.Param, ...)


def loss(parameters, state, xs, resets):
    state, ys = nnx.merge(graph, parameters, rest).unroll(state, xs, resets)
    return jnp.sum(jnp.square(ys)), state


arguments = parameters, stack.initial_state(B), jnp.ones((T, B, D)), jnp.zeros((T, B), bool)
jax.block_until_ready(jax.jit(lambda x: x + 1)(jnp.ones(3)))  # JAX starts its back end
started, worked = time.perf_counter(), time.process_time()
jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(*arguments).compile()
seconds = time.perf_counter() - started
print(json.dumps({"compile_seconds": seconds, "compile_cpu_seconds": time.process_time() - worked}))
