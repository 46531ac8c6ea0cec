"""mLSTM: Beck et al. 2024, equations 19 to 27, in the block of its figure 11."""

import jax
import numpy as np
from cores.references.common import affine, convolve, layer_normed, over_time, sigmoid, silu

from memrl.cores.mlstm import NOTHING

VARIANTS = [{"heads": 2, "expansion": 1, "conv_width": 2, "projection_block": 2}]


def block_diagonal(blocks):
    n = blocks.shape[-1]
    W = np.zeros((len(blocks) * n, len(blocks) * n))
    for i, block in enumerate(blocks):
        W[i * n : (i + 1) * n, i * n : (i + 1) * n] = block
    return W


def reference(config, p, state, xs, resets):
    del config
    B, H, K, _ = state.S.shape
    W_q, W_k, W_v = (block_diagonal(blocks) for blocks in p["projections"])

    def step(state, x):
        u, z = np.split(x @ p["input"]["kernel"], 2, -1)
        inputs, c = convolve(p["convolution"], state.inputs, u)
        c = silu(c)
        q, k, v = c @ W_q, c @ W_k, u @ W_v
        i, f = np.split(affine(p["gates"], np.concatenate([q, k, v], -1)), 2, -1)
        f = np.log(sigmoid(f))
        q, k, v = (y.reshape(B, H, K) for y in (q, k / np.sqrt(K), v))
        m = np.maximum(f + state.m, i)
        keep, enter = np.exp(f + state.m - m)[..., None], np.exp(i - m)[..., None]
        C = keep[..., None] * state.S[..., :-1] + (enter * k)[..., :, None] * v[..., None, :]
        n = keep * state.S[..., -1] + enter * k
        h = np.einsum("bhkv,bhk->bhv", C, q)
        h = h / np.maximum(np.abs(np.sum(n * q, -1)), np.exp(-m))[..., None]
        h = (layer_normed(h, 1e-5) * p["norm"]["scale"]).reshape(B, -1)
        y = ((h + p["skip"] * c) * silu(z)) @ p["output"]["kernel"]
        return state._replace(inputs=inputs, S=np.concatenate([C, n[..., None]], -1), m=m), y

    initial = jax.tree.map(np.zeros_like, state)._replace(m=np.full_like(state.m, NOTHING))
    return over_time(step, initial, state, xs, resets)
