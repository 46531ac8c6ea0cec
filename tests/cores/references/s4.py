"""S4: Gu et al. 2022, the bilinear rule with the whole matrix A = Lambda - P P^* of each feature inverted."""

import numpy as np
from cores.references.common import affine, gelu, over_time, sigmoid

VARIANTS = [
    {"state_size": 6, "dt_min": 0.1, "dt_max": 1.0, "activation": "none", "chunk_size": 5},
    {"state_size": 12, "chunk_size": 4},
    {"state_size": 2, "chunk_size": 1},
]


def reference(config, p, state, xs, resets):
    def both(parts):
        return np.concatenate([parts[0] + 1j * parts[1], parts[0] - 1j * parts[1]], -1)

    half = state.shape[-1] // 2
    Lambda = both((-np.exp(p["log_real"]), p["imag"]))
    P, B, C = both(p["low_rank"]), both(p["input"]), both(p["output"])
    one = np.eye(2 * half)[None]
    A = Lambda[:, None] * one - P[:, :, None] * P.conj()[:, None, :]
    dt = np.exp(p["log_dt"])[:, None, None]
    inverse = np.linalg.inv(one - dt / 2 * A)
    A_bar, B_bar = inverse @ (one + dt / 2 * A), (inverse @ (dt * B[..., None]))[..., 0]

    def step(x, u):
        x = (A_bar @ x[..., None])[..., 0] + B_bar * u[..., None]
        y = (C * x).sum(-1)
        np.testing.assert_allclose(y.imag, 0, atol=1e-9)
        y = y.real + p["skip"] * u
        if config.activation == "none":
            return x, y
        value, gate = np.split(affine(p["activation"]["glu"], gelu(y)), 2, -1)
        return x, value * sigmoid(gate)

    full = both((state[..., :half], state[..., half:]))
    ys, full = over_time(step, np.zeros_like(full), full, xs, resets)
    return ys, np.concatenate([np.real(full[..., :half]), np.imag(full[..., :half])], -1)
