"""LMU: Voelker et al. 2019, equations 1 to 7, with their matrices, whose polynomials are not normalised."""

import numpy as np
import scipy.linalg
from cores.references.common import affine, over_time

VARIANTS = [{"hidden_size": 5, "memories": 2, "order": 3, "window": 4.0}]


def voelker(order, window):
    i, j = np.arange(order)[:, None], np.arange(order)[None]
    A = (2 * i + 1) / window * np.where(i < j, -1.0, (-1.0) ** (i - j + 1))
    B = ((2 * i + 1) * (-1.0) ** i / window)[:, 0]
    joint = np.zeros((order + 1, order + 1))  # a zero-order hold by the exponential of one matrix
    joint[:order, :order], joint[:order, order] = A, B
    held = scipy.linalg.expm(joint)
    return held[:order, :order], held[:order, order]


def reference(config, p, state, xs, resets):
    A, B = voelker(config.order, config.window)
    n = np.arange(config.order)
    norm = np.sqrt(2 * n + 1) * (-1.0) ** n  # Voelker's coefficients in terms of orthonormal ones
    E, W = p["encoders"], p["kernels"]
    N = state.shape[1] - config.memories * config.order

    def step(s, x):
        h, m = s[:, :N], s[:, N:]
        u = x @ E["x"] + h @ E["h"] + m @ E["m"]
        m = m.reshape(-1, config.memories, config.order) * norm
        m = (m @ A.T + u[..., None] * B) / norm
        m = m.reshape(len(x), -1)
        h = np.tanh(x @ W["x"] + h @ W["h"] + m @ W["m"])
        return np.concatenate([h, m], 1), affine(p["readout"], h) if "readout" in p else h

    return over_time(step, np.zeros_like(state), state, xs, resets)
