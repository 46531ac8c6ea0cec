"""sLSTM: Beck et al. 2024, equations 8 to 17, in the block of its figure 10 without the feed-forward."""

import jax
import numpy as np
from cores.references.common import convolve, layer_normed, over_time, sigmoid, silu

from memrl.cores.slstm import NOTHING

VARIANTS = [{"heads": 2, "conv_width": 2, "forget_power": 0.3, "recurrent_init": "uniform"}]


def matrices(blocks, gates):
    """A whole matrix for each gate, of blocks that hold all gates of a head."""
    H, K, _ = blocks.shape
    whole = np.zeros((gates, H * K, H * K))
    for head, block in enumerate(blocks):
        here = slice(head * K, (head + 1) * K)
        for gate in range(gates):
            whole[gate, here, here] = block[:, gate * K : (gate + 1) * K]
    return whole


def reference(config, p, state, xs, resets):
    del config
    B, H, K = state.h.shape
    W_i, W_f = matrices(p["gates"], 2)
    W_z, W_o = matrices(p["input"], 2)
    R_i, R_f, R_z, R_o = matrices(p["recurrent"], 4)
    b_i, b_f, b_z, b_o = np.moveaxis(p["bias"], 1, 0).reshape(4, -1)

    def step(state, x):
        inputs, u = convolve(p["convolution"], state.inputs, x)
        u = silu(u)
        h, c, n, m_old = (s.reshape(B, -1) for s in state[1:])
        i, f = u @ W_i + h @ R_i + b_i, np.log(sigmoid(u @ W_f + h @ R_f + b_f))
        z, o = np.tanh(x @ W_z + h @ R_z + b_z), sigmoid(x @ W_o + h @ R_o + b_o)
        m = np.maximum(f + m_old, i)
        c = np.exp(f + m_old - m) * c + np.exp(i - m) * z
        n = np.exp(f + m_old - m) * n + np.exp(i - m)
        h, c, n, m = (s.reshape(B, H, K) for s in (o * c / n, c, n, m))
        y = layer_normed(h, 1e-5) * p["norm"]["scale"]
        return state._replace(inputs=inputs, h=h, c=c, n=n, m=m), y.reshape(B, -1)

    initial = jax.tree.map(np.zeros_like, state)._replace(m=np.full_like(state.m, NOTHING))
    return over_time(step, initial, state, xs, resets)
