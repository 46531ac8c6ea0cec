"""pLSTM: Pöppel et al. 2025, equations 5 and 6 in the layer of the authors' code, one head and one row at a time."""

import numpy as np
from cores.references.common import affine, convolve, over_time, pieces, rms_normed, sigmoid

VARIANTS = [
    {"heads": 2, "gate_weights": "normal", "transition_bias": 0.0, "source_bias": 0.0, "mark_bias": 1.0},
    {"key_width": 3, "value_width": 5, "transition_scale": 2.0, "transition_bias": -0.5, "conv_width": 1},
]


def reference(config, p, state, xs, resets):
    B, H, K, V = state[0].shape

    def step(state, x):
        C, o = state[0].copy(), np.zeros((B, H, V))
        window, c = convolve(p["convolution"], state[1], x)
        q, k, source, mark, direct, transition = pieces(affine(p["project"], c), H * K, H * K, H, H, H, H)
        v = affine(p["value"], x)
        for b in range(B):
            for h in range(H):
                key, value = slice(h * K, (h + 1) * K), slice(h * V, (h + 1) * V)
                q_n, k_n, v_n = q[b, key], k[b, key], v[b, value]
                o[b, h] = sigmoid(mark[b, h]) * (q_n @ C[b, h]) + sigmoid(direct[b, h]) * (q_n @ k_n) * v_n
                T = np.tanh(config.transition_scale * transition[b, h])
                C[b, h] = T * C[b, h] + sigmoid(source[b, h]) * np.outer(k_n, v_n)
        o = rms_normed(o / np.sqrt(K)) * p["norm"]["scale"]
        return (C, window), o.reshape(B, -1) @ p["output"]["kernel"] + p["skip"] * c

    return over_time(step, (np.zeros_like(state[0]), np.zeros_like(state[1])), state, xs, resets)
