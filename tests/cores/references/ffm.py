"""FFM: Morad et al. 2023."""

import numpy as np
from cores.references.common import affine, layer_normed, over_time, pieces, sigmoid

VARIANTS = [{"memory_size": 3, "context_size": 2, "min_period": 2.0, "max_period": 9.0}]


def reference(config, p, state, xs, resets):
    M, C = config.memory_size, config.context_size
    turn = np.exp(-np.abs(p["decay"])[:, None] - 1j * p["frequency"][None])

    def step(s, x):
        u, u_gate, gate, skip = pieces(affine(p["input"], x), M, M, x.shape[-1], x.shape[-1])
        s = turn * s.reshape(-1, M, C) + (u * sigmoid(u_gate))[..., None]
        s = s.reshape(len(x), -1)
        z = affine(p["mix"], np.concatenate([s.real, s.imag], -1))
        gate = sigmoid(gate)
        return s, layer_normed(z, 1e-6) * gate + skip * (1 - gate)

    return over_time(step, np.zeros_like(state), state, xs, resets)
