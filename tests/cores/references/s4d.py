"""S4D: Gu et al. 2022, each feature a real system of size N, its conjugate pairs written out."""

import numpy as np
from cores.references.common import affine, gelu, over_time, sigmoid

VARIANTS = [
    {"state_size": 6, "init": "inv", "discretisation": "bilinear", "dt_min": 0.1, "dt_max": 1.0, "activation": "none"},
    {"state_size": 10, "init": "legs", "chunk_size": 5},
]


def reference(config, p, state, xs, resets):
    def both(half):
        return np.concatenate([half, np.conj(half)], -1)

    half = state.shape[-1] // 2
    A = both(-np.exp(p["log_real"]) + 1j * p["imag"])
    C = both(p["output"][0] + 1j * p["output"][1])
    dt = np.exp(p["log_dt"])[:, None]
    if config.discretisation == "zoh":
        A_bar, B_bar = np.exp(dt * A), (np.exp(dt * A) - 1) / A
    else:
        A_bar, B_bar = (1 + dt / 2 * A) / (1 - dt / 2 * A), dt / (1 - dt / 2 * A)

    def step(x, u):
        x = A_bar * x + B_bar * u[..., None]
        y = (C * x).sum(-1)
        np.testing.assert_allclose(y.imag, 0, atol=1e-9)
        y = y.real + p["skip"] * u
        if config.activation == "none":
            return x, y
        value, gate = np.split(affine(p["activation"]["glu"], gelu(y)), 2, -1)
        return x, value * sigmoid(gate)

    full = both(state[..., :half] + 1j * state[..., half:])
    ys, full = over_time(step, np.zeros_like(full), full, xs, resets)
    return ys, np.concatenate([np.real(full[..., :half]), np.imag(full[..., :half])], -1)
