"""LRU: Orvieto et al. 2023, with complex matrices."""

import numpy as np
from cores.references.common import affine, gelu, over_time, sigmoid

VARIANTS = [
    {"state_size": 5, "r_min": 0.9, "r_max": 0.99, "max_phase": 0.3},
    {"activation": "none"},
]


def reference(config, p, state, xs, resets):
    N = state.shape[1]
    lambdas = np.exp(-np.exp(p["nu"]) + 1j * np.exp(p["theta"]))
    B = (p["input"][:, :N] + 1j * p["input"][:, N:]).T
    C = (p["output"][:N] + 1j * p["output"][N:]).T

    def step(x, u):
        x = lambdas * x + np.exp(p["log_gamma"]) * (u @ B.T)
        y = (x @ C.T).real + p["skip"] * u
        if config.activation == "none":
            return x, y
        value, gate = np.split(affine(p["activation"]["glu"], gelu(y)), 2, -1)
        return x, value * sigmoid(gate)

    return over_time(step, np.zeros_like(state), state, xs, resets)
