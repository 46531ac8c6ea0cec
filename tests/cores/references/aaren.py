"""Aaren: Feng et al. 2024, the softmax over all steps of the episode written out from its sums."""

import numpy as np
from cores.references.common import over_time

from memrl.cores.aaren import NOTHING, AarenState

VARIANTS = [{"heads": 2}, {"heads": 2, "positions": "none"}]


def reference(config, p, state, xs, resets):
    H = p["query"].shape[0]
    slopes = np.exp(p["log_slopes"]) if config.positions == "slopes" else np.zeros(H)

    def step(state, x):
        k, v = (z.reshape(len(x), H, -1) for z in np.split(x @ p["input"]["kernel"], 2, -1))
        s = np.einsum("bhk,hk->bh", k, p["query"]) / np.sqrt(k.shape[-1])
        m = np.maximum(state.maximum - slopes, s)
        old, new = np.exp(state.maximum - slopes - m), np.exp(s - m)
        total = old * state.total + new
        weighted = old[..., None] * state.weighted + new[..., None] * v
        y = (weighted / total[..., None]).reshape(len(x), -1) @ p["output"]["kernel"]
        return AarenState(m, total, weighted), y

    initial = AarenState(np.full_like(state.maximum, NOTHING), *(np.zeros_like(s) for s in state[1:]))
    return over_time(step, initial, state, xs, resets)
