"""RWKV-7: Peng et al. 2025, section 4, the state [V, K] as there, one head and one row at a time."""

import numpy as np
from cores.references.common import layer_normed, over_time, sigmoid, unit_vector

VARIANTS = [
    {"heads": 2, "key_width": 3, "value_width": 5, "decay_rank": 2, "rate_rank": 3, "gate_rank": 4},
    {"heads": 4, "gate_rank": 12},
]


def reference(config, p, state, xs, resets):
    del config
    B, H, K, V = state.S.shape

    def low_rank(p, f, x):
        return f(x @ p["first"]["kernel"]) @ p["second"]["kernel"] + p["second"].get("bias", 0)

    def step(state, x):
        S, o = state.S.copy(), np.zeros((B, H, V))
        x_r, x_d, x_k, x_v, x_a, x_g = ((1 - mu) * x + mu * state.x for mu in p["mix"])
        r, k, v = x_r @ p["r"]["kernel"], x_k @ p["k"]["kernel"], x_v @ p["v"]["kernel"]
        w = np.exp(-np.exp(-0.5) * sigmoid(low_rank(p["decay"], np.tanh, x_d)))
        a = sigmoid(low_rank(p["rate"], lambda x: x, x_a))
        g = low_rank(p["gate"], sigmoid, x_g)
        for b in range(B):
            for h in range(H):
                key, value = slice(h * K, (h + 1) * K), slice(h * V, (h + 1) * V)
                kappa = unit_vector(k[b, key] * p["removal"][h], 1e-12)
                replacing = k[b, key] * ((1 - p["replacement"][h]) + p["replacement"][h] * a[b, key])
                wkv = S[b, h].T  # [V, K]
                wkv = wkv @ (np.diag(w[b, key]) - np.outer(kappa, a[b, key] * kappa))
                wkv = wkv + np.outer(v[b, value], replacing)
                S[b, h] = wkv.T
                normed = layer_normed(wkv @ r[b, key], 64e-5) * p["norm"]["scale"][h] + p["norm"]["bias"][h]
                o[b, h] = normed + np.sum(r[b, key] * p["bonus"][h] * replacing) * v[b, value]
        return state._replace(x=x, S=S), (o.reshape(B, -1) * g) @ p["output"]["kernel"]

    initial = state._replace(x=np.zeros_like(state.x), S=np.zeros_like(state.S))
    return over_time(step, initial, state, xs, resets)
