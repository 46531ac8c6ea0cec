"""HGRN-2: Qin et al. 2024, one head and one row at a time."""

import numpy as np
from cores.references.common import affine, over_time, pieces, rms_normed, sigmoid, silu

VARIANTS = [
    {"heads": 2, "key_width": 3, "lower_bound": 0.8},
    {"value_width": 5},
]


def reference(config, p, state, xs, resets):
    B, H, K, V = state.shape
    lower = config.lower_bound

    def step(S, x):
        S, y = S.copy(), np.zeros((B, H, V))
        f, i, o = pieces(affine(p["project"], x), H * K, H * V, H * K)
        f, i, o = lower + (1 - lower) * sigmoid(f), silu(i), sigmoid(o)
        for b in range(B):
            for h in range(H):
                key, value = slice(h * K, (h + 1) * K), slice(h * V, (h + 1) * V)
                S[b, h] = np.diag(f[b, key]) @ S[b, h] + np.outer(1 - f[b, key], i[b, value])
                y[b, h] = S[b, h].T @ o[b, key]
        return S, (rms_normed(y.reshape(B, -1)) * p["norm"]["scale"][0]) @ p["output"]["kernel"]

    return over_time(step, np.zeros_like(state), state, xs, resets)
