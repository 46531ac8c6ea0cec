"""GLA: Yang et al. 2024, one head and one row at a time."""

import numpy as np
from cores.references.common import affine, layer_normed, over_time, pieces, sigmoid, silu

VARIANTS = [
    {"heads": 2, "key_width": 3, "gate_rank": 2, "temperature": 4.0},
    {"value_width": 5, "temperature": 0.5},
]


def reference(config, p, state, xs, resets):
    B, H, K, V = state.shape

    def step(S, x):
        S, o = S.copy(), np.zeros((B, H, V))
        q, k, v, r, low = pieces(x @ p["project"]["kernel"], H * K, H * K, H * V, H * V, config.gate_rank)
        alpha = sigmoid(affine(p["gate"], low)) ** (1 / config.temperature)
        for b in range(B):
            for h in range(H):
                key, value = slice(h * K, (h + 1) * K), slice(h * V, (h + 1) * V)
                S[b, h] = np.diag(alpha[b, key]) @ S[b, h] + np.outer(k[b, key], v[b, value])
                o[b, h] = layer_normed(S[b, h].T @ q[b, key]) * p["norm"]["scale"][h]
        return S, (o.reshape(B, -1) * silu(r)) @ p["output"]["kernel"]

    return over_time(step, np.zeros_like(state), state, xs, resets)
