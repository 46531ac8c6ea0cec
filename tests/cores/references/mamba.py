"""Mamba: Gu & Dao 2023, algorithm 2 and figure 3."""

import jax
import numpy as np
from cores.references.common import over_time, sigmoid

VARIANTS = [{"state_size": 3, "expansion": 1, "conv_width": 2, "dt_rank": 2}]


def reference(config, p, state, xs, resets):
    N, A = config.state_size, -np.exp(p["A_log"])

    def step(state, u):
        x, z = np.split(u @ p["input"]["kernel"], 2, -1)
        taps = np.concatenate([state.inputs, x[:, None]], 1)  # the latest last
        x = np.sum(taps * p["convolution"]["kernel"][::-1], 1) + p["convolution"]["bias"]
        x = x * sigmoid(x)
        selected = x @ p["selection"]["kernel"]
        low_rank, B, C = selected[:, : -2 * N], selected[:, -2 * N : -N], selected[:, -N:]
        dt = np.log1p(np.exp(low_rank @ p["dt_kernel"] + p["dt_bias"]))
        h = np.exp(dt[..., None] * A) * state.h + (dt * x)[..., None] * B[:, None]
        y = np.sum(h * C[:, None], -1) + p["skip"] * x
        return state._replace(inputs=taps[:, 1:], h=h), (y * z * sigmoid(z)) @ p["output"]["kernel"]

    return over_time(step, jax.tree.map(np.zeros_like, state), state, xs, resets)
