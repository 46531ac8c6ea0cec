"""LSSL: Gu et al. 2021, with the whole HiPPO matrix, and the matrix of each step by inversion."""

import numpy as np
from cores.references.common import affine, gelu, over_time

VARIANTS = [
    {"state_size": 5, "channels": 2, "alpha": 0.7, "dt_min": 0.1, "dt_max": 2.0, "chunk_size": 5},
    {"state_size": 1, "alpha": 1.0, "chunk_size": 1},
]


def reference(config, p, state, xs, resets):
    N = config.state_size
    A, B = np.zeros((N, N)), np.zeros(N)
    for n in range(N):
        B[n] = np.sqrt(2 * n + 1)
        for k in range(n + 1):
            A[n, k] = -(n + 1) if n == k else -np.sqrt((2 * n + 1) * (2 * k + 1))
    dt = np.exp(p["log_dt"])[:, None, None]
    inverse = np.linalg.inv(np.eye(N) - config.alpha * dt * A)
    A_bar, B_bar = inverse @ (np.eye(N) + (1 - config.alpha) * dt * A), inverse @ (dt * B[:, None])

    def step(x, u):
        x = (A_bar @ x[..., None])[..., 0] + B_bar[..., 0] * u[..., None]
        y = np.einsum("mdn,bdn->bmd", p["output"], x) + p["skip"] * u[:, None]
        return x, affine(p["mix"], gelu(y).reshape(len(u), -1))

    return over_time(step, np.zeros_like(state), state, xs, resets)
