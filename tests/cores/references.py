"""Each core once more, as a loop over time in NumPy written from the paper's equations.

A reference takes the core's configuration, its parameters by name, a state, `xs` [T, B, D] and `resets`
[T, B], and gives `ys` and the last state. Everything is float64 or complex128. A new core adds its reference
to `REFERENCES`, and to the other tables what else to test of it.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

Reference = Callable[[Any, Any, Any, np.ndarray, np.ndarray], tuple[np.ndarray, Any]]

# Hyperparameters to test besides the defaults.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "gru": [{"hidden_size": 5}],
    "lstm": [{"hidden_size": 5, "forget_bias": 0.5}],
    "mlp": [{"hidden_size": 5}],
    "s5": [
        {"state_size": 12, "blocks": 2, "activation": "half_glu"},
        {"state_size": 4, "dt_min": 0.1, "dt_max": 1.0, "activation": "none"},
        {"activation": "gelu"},
    ],
}

# Steps after which a core's function repeats, where it depends on the position in the sequence (chunks).
PERIODS: dict[str, int] = {}


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


def gru(config, p, state, xs, resets):
    """Cho et al. 2014, with the reset gate after the product."""
    del config

    def step(h, x):
        w_r, w_z, w_n = np.split(p["input"]["kernel"], 3, -1)
        b_r, b_z, b_n = np.split(p["input"]["bias"], 3)
        u_r, u_z, u_n = np.split(p["recurrent"], 3, -1)
        r = sigmoid(x @ w_r + b_r + h @ u_r)
        z = sigmoid(x @ w_z + b_z + h @ u_z)
        n = np.tanh(x @ w_n + b_n + r * (h @ u_n))
        h = (1 - z) * n + z * h
        return h, affine(p["readout"], h) if "readout" in p else h

    return over_time(step, np.zeros_like(state), state, xs, resets)


def lstm(config, p, state, xs, resets):
    """Hochreiter & Schmidhuber 1997, with forget gate."""
    del config

    def step(state, x):
        h, c = state
        w_i, w_f, w_g, w_o = np.split(p["input"]["kernel"], 4, -1)
        b_i, b_f, b_g, b_o = np.split(p["input"]["bias"], 4)
        u_i, u_f, u_g, u_o = np.split(p["recurrent"], 4, -1)
        i = sigmoid(x @ w_i + b_i + h @ u_i)
        f = sigmoid(x @ w_f + b_f + h @ u_f)
        o = sigmoid(x @ w_o + b_o + h @ u_o)
        c = f * c + i * np.tanh(x @ w_g + b_g + h @ u_g)
        h = o * np.tanh(c)
        return (h, c), affine(p["readout"], h) if "readout" in p else h

    return over_time(step, jax.tree.map(np.zeros_like, state), state, xs, resets)


def mlp(config, p, state, xs, resets):
    """No memory."""
    del config, resets
    return affine(p["output"], np.maximum(affine(p["hidden"], xs), 0)), state


def s5(config, p, state, xs, resets):
    """Smith et al. 2023 with all conjugate pairs written out, where the core keeps one half of them."""

    def both(half, axis=0) -> Any:
        return np.concatenate([half, np.conj(half)], axis)

    N = state.shape[1]
    real, imag = p["eigenvalues"]
    eigenvalues = both(np.minimum(real, -1e-4) + 1j * imag)
    dt = np.exp(both(p["log_dt"]).real)
    B = both((p["input"][:, :N] + 1j * p["input"][:, N:]).T)
    C = both((p["output"][:N] + 1j * p["output"][N:]).T, axis=1)
    decay = np.exp(eigenvalues * dt)
    drive = ((decay - 1) / eigenvalues)[:, None] * B

    def step(x, u):
        x = decay * x + u @ drive.T
        y = x @ C.T
        np.testing.assert_allclose(y.imag, 0, atol=1e-9)
        y = y.real + p["skip"] * u
        if config.activation == "none":
            return x, y
        y = gelu(y)
        if config.activation == "gelu":
            return x, y
        if config.activation == "half_glu":
            return x, y * sigmoid(affine(p["glu"], y))
        value, gate = np.split(affine(p["glu"], y), 2, -1)
        return x, value * sigmoid(gate)

    full = both(state, axis=1)
    ys, full = over_time(step, np.zeros_like(full), full, xs, resets)
    return ys, full[:, :N]


REFERENCES: dict[str, Reference] = {"gru": gru, "lstm": lstm, "mlp": mlp, "s5": s5}
