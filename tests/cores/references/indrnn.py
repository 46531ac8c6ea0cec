"""IndRNN: Li et al. 2018."""

import numpy as np
from cores.references.common import affine, over_time

VARIANTS = [{"hidden_size": 5, "recurrent_bound": 0.3}]


def reference(config, p, state, xs, resets):
    u = np.clip(p["recurrent"], -config.recurrent_bound, config.recurrent_bound)

    def step(h, x):
        h = np.maximum(affine(p["input"], x) + u * h, 0)
        return h, affine(p["readout"], h) if "readout" in p else h

    return over_time(step, np.zeros_like(state), state, xs, resets)
