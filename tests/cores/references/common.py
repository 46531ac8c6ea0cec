"""What the references share: a loop over time with resets, and functions by their formulas."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def over_time(step: Callable[[Any, np.ndarray], tuple[Any, np.ndarray]], initial, state, xs, resets):
    """Runs `step(state, x) -> (state, y)` with resets to `initial`, both pytrees of [B, ...]."""
    ys = []
    for x, reset in zip(xs, resets, strict=True):
        state = jax.tree.map(
            lambda i, s, reset=reset: np.where(reset.reshape(-1, *[1] * (s.ndim - 1)), i, s), initial, state
        )
        state, y = step(state, x)
        ys.append(y)
    return np.stack(ys), state


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def affine(layer, x):
    return x @ layer["kernel"] + layer["bias"]


def over_episodes(step: Callable[[list, np.ndarray], tuple[list, np.ndarray]], state, xs, resets):
    """Runs `step(past, x) -> (past, y)` on a list of past rows for each environment, emptied at a reset.

    `state` is such lists as the cores keep them: the latest row last, zeros before the first, and how many there are.
    """
    pasts = [list(rows[len(rows) - filled :]) for rows, filled in zip(state.rows, state.filled, strict=True)]
    ys, rows = np.zeros_like(xs), np.zeros_like(state.rows)
    for t, b in np.ndindex(resets.shape):
        pasts[b], ys[t, b] = step([] if resets[t, b] else pasts[b], xs[t, b])
    for b, past in enumerate(pasts):
        rows[b, rows.shape[1] - len(past) :] = past
    return ys, state._replace(rows=rows, filled=np.array([len(past) for past in pasts]))


def softmax(scores):
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def layer_norm(p, x):
    return layer_normed(x, 1e-6) * p["scale"] + p["bias"]


def silu(x):
    return x * sigmoid(x)


def softplus(x):
    return np.logaddexp(0, x)


def convolve(layer, window, x):
    """One step of a short convolution: the inputs it keeps, [B, width - 1, D], and its output [B, D]."""
    seen = np.concatenate([window, x[:, None]], 1)
    y = sum(weight * seen[:, -1 - i] for i, weight in enumerate(layer["kernel"]))
    return seen[:, 1:], y + layer.get("bias", 0)


def pieces(x, *widths):
    """The last axis cut into pieces of these widths, which are all of it."""
    assert x.shape[-1] == sum(widths)
    return np.split(x, np.cumsum(widths)[:-1], -1)


def rms_normed(x, epsilon=1e-5):
    return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + epsilon)


def unit_vector(x, epsilon=1e-6):
    return x / np.sqrt(np.sum(x**2, -1, keepdims=True) + epsilon)


def layer_normed(x, epsilon=1e-3):
    return (x - np.mean(x, -1, keepdims=True)) / np.sqrt(np.var(x, -1, keepdims=True) + epsilon)
