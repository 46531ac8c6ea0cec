"""MGU: Zhou et al. 2016, equations 8."""

import numpy as np
from cores.references.common import affine, over_time, sigmoid

VARIANTS = [{"hidden_size": 5}]


def reference(config, p, state, xs, resets):
    del config

    def step(h, x):
        w_f, w_c = np.split(p["input"]["kernel"], 2, -1)
        b_f, b_c = np.split(p["input"]["bias"], 2)
        u_f, u_c = np.split(p["recurrent"], 2, -1)
        f = sigmoid(x @ w_f + b_f + h @ u_f)
        c = np.tanh(x @ w_c + b_c + (f * h) @ u_c)
        h = (1 - f) * h + f * c
        return h, affine(p["readout"], h) if "readout" in p else h

    return over_time(step, np.zeros_like(state), state, xs, resets)
