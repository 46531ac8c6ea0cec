"""pLSTM: Pöppel et al. 2025, equations 5 and 6 on a sequence, one head and one row at a time."""

import numpy as np
from cores.references.common import affine, over_time, pieces, rms_normed, sigmoid

VARIANTS = [
    {"heads": 2, "gate_weights": "normal", "transition_bias": 0.0, "source_bias": 0.0, "mark_bias": 1.0},
    {"key_width": 3, "value_width": 5, "direct_bias": 0.0, "transition_scale": 2.0, "transition_bias": -0.5},
]


def reference(config, p, state, xs, resets):
    B, H, K, V = state.shape

    def step(C, x):
        C, o = C.copy(), np.zeros((B, H, V))
        q, k, v, source, mark, direct, transition = pieces(affine(p["project"], x), H * K, H * K, H * V, H, H, H, H)
        for b in range(B):
            for h in range(H):
                key, value = slice(h * K, (h + 1) * K), slice(h * V, (h + 1) * V)
                q_n, k_n, v_n = q[b, key], k[b, key], v[b, value]
                o[b, h] = sigmoid(mark[b, h]) * (q_n @ C[b, h]) + sigmoid(direct[b, h]) * (q_n @ k_n) * v_n
                T = np.tanh(config.transition_scale * transition[b, h])
                C[b, h] = T * C[b, h] + sigmoid(source[b, h]) * np.outer(k_n, v_n)
        o = rms_normed(o / np.sqrt(K)) * p["norm"]["scale"]
        return C, o.reshape(B, -1) @ p["output"]["kernel"]

    return over_time(step, np.zeros_like(state), state, xs, resets)
