"""Gated DeltaNet: Yang et al. 2025, one head and one row at a time."""

import jax
import numpy as np
from cores.references.common import convolve, over_time, pieces, rms_normed, sigmoid, silu, softplus, unit_vector

VARIANTS = [
    {"heads": 2, "value_width": 6, "conv_width": 3, "negative_eigenvalues": True},
    {"heads": 2, "key_width": 5, "conv_width": 1},
]


def reference(config, p, state, xs, resets):
    B, H, K, V = state[0].shape
    largest = 2 if config.negative_eigenvalues else 1

    def step(state, x):
        S, window = state
        S, o = S.copy(), np.zeros((B, H, V))
        qkv, beta, a, gate = pieces(x @ p["project"]["kernel"], H * (K + K + V), H, H, H * V)
        window, qkv = convolve(p["convolution"], window, qkv)
        q, k, v = pieces(silu(qkv), H * K, H * K, H * V)
        alpha = np.exp(-np.exp(p["decay"]["log_rate"]) * softplus(a + p["decay"]["bias"]))
        for b in range(B):
            for h in range(H):
                q_h, k_h = (unit_vector(x[b, h * K : (h + 1) * K]) for x in (q, k))
                v_h = v[b, h * V : (h + 1) * V]
                beta_h = largest * sigmoid(beta[b, h])
                transition = alpha[b, h] * (np.eye(K) - beta_h * np.outer(k_h, k_h))
                S[b, h] = transition @ S[b, h] + beta_h * np.outer(k_h, v_h)
                o[b, h] = rms_normed(S[b, h].T @ q_h) * p["norm"]["scale"][h]
        return (S, window), (o.reshape(B, -1) * silu(gate)) @ p["output"]["kernel"]

    return over_time(step, jax.tree.map(np.zeros_like, state), state, xs, resets)
