"""RetNet: Sun et al. 2023, its rotation as multiplication of complex numbers, one head at a time."""

import jax
import numpy as np
from cores.references.common import layer_normed, over_time, pieces, silu

VARIANTS = [
    {"heads": 4, "key_width": 6, "value_width": 3},
    {"heads": 2, "exponents": (5, 6)},
]


def reference(config, p, state, xs, resets):
    B, H, K, V = state[0].shape
    first, last = config.exponents
    gamma = 1 - 2.0 ** -np.linspace(first, last, H)

    def turn(x, t):
        """Channels 2i and 2i + 1 of x [B, K] are the parts of a complex number; t [B]."""
        theta = 10_000 ** -np.linspace(0, 1, K // 2)
        z = (x[:, 0::2] + 1j * x[:, 1::2]) * np.exp(1j * t[:, None] * theta)
        return np.stack([z.real, z.imag], -1).reshape(x.shape)

    def step(state, x):
        S, t = state
        S, o = S.copy(), np.zeros((B, H, V))
        q, k, v, g = pieces(x @ p["project"]["kernel"], H * K, H * K, H * V, H * V)
        for h in range(H):
            key, value = slice(h * K, (h + 1) * K), slice(h * V, (h + 1) * V)
            q_h, k_h = turn(q[:, key], t), turn(k[:, key] / np.sqrt(K), t)
            S[:, h] = gamma[h] * S[:, h] + k_h[:, :, None] * v[:, None, value]
            o[:, h] = layer_normed(np.einsum("bkv,bk->bv", S[:, h], q_h)) * p["norm"]["scale"][h]
        return (S, t + 1), (o.reshape(B, -1) * silu(g)) @ p["output"]["kernel"]

    return over_time(step, jax.tree.map(np.zeros_like, state), state, xs, resets)
