"""Forward and backward through memrl's Titans memory, with the sizes on the command line, at resets or without."""

import json
import sys
import time

import jax
import jax.numpy as jnp
from flax import nnx
from turns import take_turns

from memrl import make_core

sizes = json.loads(sys.argv[1])
T, B, D, C = (sizes[name] for name in ("steps", "batch", "width", "chunk_length"))
core = make_core("titans", D, rngs=nnx.Rngs(0), width=D, depth=2, expansion=2, chunk_length=C)
graphdef, params = nnx.split(core, nnx.Param)
xs = jax.random.normal(jax.random.key(0), (T, B, D))
resets = jax.random.uniform(jax.random.key(1), (T, B)) < sizes["reset_rate"]
state = core.initial_state(B)


@jax.jit
def gradients(params, state, xs, resets):
    def loss(params, xs):
        return jnp.mean(jnp.square(nnx.merge(graphdef, params).unroll(state, xs, resets)[1]))

    return jax.value_and_grad(loss, (0, 1))(params, xs)


def update() -> None:
    jax.block_until_ready(gradients(params, state, xs, resets))


started = time.perf_counter()
update()
compile_seconds = time.perf_counter() - started
update()
parameters = sum(x.size for x in jax.tree.leaves(params))
take_turns(update, parameters=parameters, compile_seconds=compile_seconds)
