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
