"""minLSTM: Feng et al. 2024, with gates that add up to one."""

import numpy as np
from cores.references.common import affine, over_time, sigmoid

VARIANTS = [{"hidden_size": 5, "forget_bias": -0.5}]


def reference(config, p, state, xs, resets):
    del config

    def step(h, x):
        w_f, w_i, w_c = np.split(p["input"]["kernel"], 3, -1)
        b_f, b_i, b_c = np.split(p["input"]["bias"], 3)
        f, i = sigmoid(x @ w_f + b_f), sigmoid(x @ w_i + b_i)
        h = f / (f + i) * h + i / (f + i) * (x @ w_c + b_c)
        return h, affine(p["readout"], h) if "readout" in p else h

    return over_time(step, np.zeros_like(state), state, xs, resets)
