"""Mamba-2: Dao & Gu 2024, one head and one row at a time, states as columns: h_t = a_t h_{t-1} + dt_t u_t B_t^T."""

import jax
import numpy as np
from cores.references.common import convolve, over_time, pieces, rms_normed, silu, softplus

VARIANTS = [
    {"state_size": 3, "heads": 4, "groups": 2, "conv_width": 2},
    {"state_size": 5, "expansion": 1, "conv_width": 1, "dt_min": 0.1, "dt_max": 1.0},
]


def reference(config, p, state, xs, resets):
    B, H, N, V = state[0].shape
    G = config.groups

    def step(state, x):
        S, window = state
        S, y = S.copy(), np.zeros((B, H, V))
        z, ubc, dt = pieces(x @ p["project"]["kernel"], H * V, H * V + 2 * G * N, H)
        window, ubc = convolve(p["convolution"], window, ubc)
        u, b, c = pieces(silu(ubc), H * V, G * N, G * N)
        dt = softplus(dt + p["decay"]["bias"])
        a = np.exp(-np.exp(p["decay"]["log_rate"]) * dt)
        for row in range(B):
            for h in range(H):
                group = h * G // H
                u_h = u[row].reshape(H, V)[h]
                b_h, c_h = (x[row].reshape(G, N)[group] for x in (b, c))
                S[row, h] = a[row, h] * S[row, h] + np.outer(b_h, dt[row, h] * u_h)
                y[row, h] = c_h @ S[row, h] + p["skip"][h] * u_h
        gated = (y.reshape(B, -1) * silu(z)).reshape(B, G, -1)
        return (S, window), (rms_normed(gated) * p["norm"]["scale"]).reshape(B, -1) @ p["output"]["kernel"]

    return over_time(step, jax.tree.map(np.zeros_like, state), state, xs, resets)
