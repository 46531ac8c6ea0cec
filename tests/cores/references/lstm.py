"""LSTM: Hochreiter & Schmidhuber 1997, with forget gate."""

import jax
import numpy as np
from cores.references.common import affine, over_time, sigmoid

VARIANTS = [{"hidden_size": 5, "forget_bias": 0.5}, {"scan": "newton"}]


def reference(config, p, state, xs, resets):
    del config

    def step(state, x):
        h, c = state
        w_i, w_f, w_g, w_o = np.split(p["input"]["kernel"], 4, -1)
        b_i, b_f, b_g, b_o = np.split(p["input"]["bias"], 4)
        u_i, u_f, u_g, u_o = np.split(p["recurrent"], 4, -1)
        i = sigmoid(x @ w_i + b_i + h @ u_i)
        f = sigmoid(x @ w_f + b_f + h @ u_f)
        o = sigmoid(x @ w_o + b_o + h @ u_o)
        c = f * c + i * np.tanh(x @ w_g + b_g + h @ u_g)
        h = o * np.tanh(c)
        return (h, c), affine(p["readout"], h) if "readout" in p else h

    return over_time(step, jax.tree.map(np.zeros_like, state), state, xs, resets)
