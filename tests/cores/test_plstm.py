"""pLSTM against the layer of its authors, in numbers that make_plstm_layer.py has stored."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from cores.numeric import assert_close
from flax import nnx

from memrl import make_core

NUMBERS = dict(np.load(Path(__file__).with_name("plstm_layer.npz")))


def test_the_layer_of_the_authors():
    xs, ys = NUMBERS["xs"], NUMBERS["ys"]
    core = make_core("plstm", xs.shape[-1], rngs=nnx.Rngs(0), heads=2)
    for path, parameter in nnx.to_flat_state(nnx.state(core, nnx.Param)):
        if path != ("norm", "scale"):  # ones, in both
            parameter[...] = jnp.asarray(NUMBERS[".".join(map(str, path))])
    state = core.initial_state(xs.shape[1])
    assert_close(core.unroll(state, jnp.asarray(xs), jnp.zeros(xs.shape[:2], bool))[1], ys, 1e-5)
