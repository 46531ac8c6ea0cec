"""minGRU: Feng et al. 2024, algorithm 1."""

import numpy as np
from cores.references.common import affine, over_time, sigmoid

VARIANTS = [{"hidden_size": 5}]


def reference(config, p, state, xs, resets):
    del config

    def step(h, x):
        w_z, w_c = np.split(p["input"]["kernel"], 2, -1)
        b_z, b_c = np.split(p["input"]["bias"], 2)
        z = sigmoid(x @ w_z + b_z)
        h = (1 - z) * h + z * (x @ w_c + b_c)
        return h, affine(p["readout"], h) if "readout" in p else h

    return over_time(step, np.zeros_like(state), state, xs, resets)
