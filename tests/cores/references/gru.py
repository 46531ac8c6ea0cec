"""GRU: Cho et al. 2014, with the reset gate after the product."""

import numpy as np
from cores.references.common import affine, over_time, sigmoid

VARIANTS = [{"hidden_size": 5}, {"scan": "newton"}]


def reference(config, p, state, xs, resets):
    del config

    def step(h, x):
        w_r, w_z, w_n = np.split(p["input"]["kernel"], 3, -1)
        b_r, b_z, b_n = np.split(p["input"]["bias"], 3)
        u_r, u_z, u_n = np.split(p["recurrent"], 3, -1)
        r = sigmoid(x @ w_r + b_r + h @ u_r)
        z = sigmoid(x @ w_z + b_z + h @ u_z)
        n = np.tanh(x @ w_n + b_n + r * (h @ u_n))
        h = (1 - z) * n + z * h
        return h, affine(p["readout"], h) if "readout" in p else h

    return over_time(step, np.zeros_like(state), state, xs, resets)
