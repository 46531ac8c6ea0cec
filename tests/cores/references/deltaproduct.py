"""DeltaProduct: Siems et al. 2025, one Householder matrix, one head and one row at a time."""

import jax
import numpy as np
from cores.references.common import convolve, over_time, pieces, rms_normed, sigmoid, silu, softplus, unit_vector

VARIANTS = [
    {"steps": 3, "heads": 2, "key_width": 3, "gated": True},
    {"steps": 1, "negative_eigenvalues": False, "conv_width": 2},
    {"steps": 2, "heads": 4, "value_width": 3, "gated": True, "conv_width": 1},
]


def reference(config, p, state, xs, resets):
    B, H, K, V = state[0].shape
    n = config.steps
    largest = 2 if config.negative_eigenvalues else 1

    def step(state, x):
        S, window = state
        S, o = S.copy(), np.zeros((B, H, V))
        qkv, rest = pieces(x @ p["project"]["kernel"], H * (K + n * K + n * V), H * n + config.gated * H * (1 + V))
        window, qkv = convolve(p["convolution"], window, qkv)
        q, k, v = pieces(silu(qkv), H * K, n * H * K, n * H * V)
        q, k, v = q.reshape(B, H, K), k.reshape(B, n, H, K), v.reshape(B, n, H, V)
        beta = largest * sigmoid(rest[:, : n * H]).reshape(B, n, H)
        if config.gated:
            a, _ = pieces(rest[:, n * H :], H, H * V)
            S *= np.exp(-np.exp(p["decay"]["log_rate"]) * softplus(a + p["decay"]["bias"]))[..., None, None]
        for b in range(B):
            for h in range(H):
                for i in range(n):
                    k_i = unit_vector(k[b, i, h])
                    householder = np.eye(K) - beta[b, i, h] * np.outer(k_i, k_i)
                    S[b, h] = householder @ S[b, h] + beta[b, i, h] * np.outer(k_i, v[b, i, h])
                o[b, h] = rms_normed(S[b, h].T @ unit_vector(q[b, h])) * p["norm"]["scale"][h]
        o = o.reshape(B, -1)
        if config.gated:
            o = o * silu(rest[:, (n + 1) * H :])
        return (S, window), o @ p["output"]["kernel"]

    return over_time(step, jax.tree.map(np.zeros_like, state), state, xs, resets)
