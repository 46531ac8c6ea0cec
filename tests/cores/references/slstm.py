"""sLSTM: Beck et al. 2024, equations 8 to 17."""

import jax
import numpy as np
from cores.references.common import affine, over_time, sigmoid

from memrl.cores.slstm import NOTHING

VARIANTS = [{"heads": 2, "forget_bias": 0.5}]


def reference(config, p, state, xs, resets):
    heads, width, _ = p["recurrent"].shape
    D = heads * width
    R = np.zeros((4, D, D))  # z, i, f, o
    for head, block in enumerate(p["recurrent"]):
        here = slice(head * width, (head + 1) * width)
        for gate, part in enumerate(np.split(block, 4, -1)):
            R[gate, here, here] = part

    def step(state, x):
        inputs = np.split(affine(p["input"], x), 4, -1)
        z, i, f, o = (given + state.h @ r for given, r in zip(inputs, R, strict=True))
        f = np.log(sigmoid(f))
        m = np.maximum(f + state.m, i)
        c = np.exp(f + state.m - m) * state.c + np.exp(i - m) * np.tanh(z)
        n = np.exp(f + state.m - m) * state.n + np.exp(i - m)
        h = sigmoid(o) * c / n
        return state._replace(h=h, c=c, n=n, m=m), h

    initial = jax.tree.map(np.zeros_like, state)._replace(m=np.full_like(state.m, NOTHING))
    return over_time(step, initial, state, xs, resets)
