"""S5: Smith et al. 2023 with all conjugate pairs written out, where the core keeps one half of them."""

from typing import Any

import numpy as np
from cores.references.common import affine, gelu, over_time, sigmoid

VARIANTS = [
    {"state_size": 12, "blocks": 2, "activation": "half_glu"},
    {"state_size": 4, "basis": "legt", "dt_min": 0.1, "dt_max": 1.0, "activation": "none"},
    {"basis": "fout", "activation": "gelu"},
]


def reference(config, p, state, xs, resets):

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
            return x, y * sigmoid(affine(p["activation"]["glu"], y))
        value, gate = np.split(affine(p["activation"]["glu"], y), 2, -1)
        return x, value * sigmoid(gate)

    full = both(state, axis=1)
    ys, full = over_time(step, np.zeros_like(full), full, xs, resets)
    return ys, full[:, :N]
