"""Titans with memory as context: Behrouz, Zhong & Mirrokni 2024, equations 21 to 25, one environment at a time.

Attention looks through lists of what the segment and episode had so far: of h, of x, and the positions of both.
"""

import jax
import numpy as np
from cores import neural_memory_reference
from cores.references.common import rms_normed, silu
from cores.references.titans_mag import gated
from cores.references.window_attention import attention, attention_row

PERIOD = 12
VARIANTS = [
    {"width": 5, "chunk_length": 3, "max_learning_rate": 0.5, "heads": 2, "persistent": 2, "conv_width": 3},
    {"width": 4, "depth": 1, "chunk_length": 5, "heads": 4, "persistent": 0, "rotary_base": 10.0},
    {"width": 6, "chunk_length": 1, "persistent": 1, "conv_width": 1, "residual": True, "offset": True},
    {"width": 4, "chunk_length": 4, "retention": "kl", "optimiser": "gradient", "max_learning_rate": 0.5},
    {"width": 4, "chunk_length": 50, "bias": "huber", "optimiser": "newton_schulz"},
    {"width": 4, "chunk_length": 3, "window": 3, "degree": 2, "heads": 2, "conv_width": 2},
    {"width": 4, "chunk_length": 5, "window": 7, "optimiser": "newton_schulz", "heads": 2, "max_learning_rate": 0.02},
]


def reference(config, p, state, xs, resets):
    ys, last = np.zeros_like(xs), jax.tree.map(np.copy, state)
    for b in range(xs.shape[1]):
        one = jax.tree.map(lambda x, b=b: x[b], state)
        past = list(one.window.rows[len(one.window.rows) - one.window.filled :])
        memory = jax.tree.map(lambda x, b=b: x[b : b + 1], state.memory)
        for t in range(len(xs)):
            past, memory, ys[t, b] = step(config, p, past, memory, xs[t, b], bool(resets[t, b]))
        rows = np.zeros_like(one.window.rows)
        if past:
            rows[-len(past) :] = past
        last.window.rows[b], last.window.filled[b] = rows, len(past)
        for whole, part in zip(jax.tree.leaves(last.memory), jax.tree.leaves(memory), strict=True):
            whole[b] = part[0]
    return ys, last


def step(config, p, past, memory, x, reset):
    initial = [p["memory"]["network"]["layers"][i] for i in range(config.depth)]
    if reset or memory.memory.phase[0] == 0:
        past = []
    base = initial if reset else [layer[0] for layer in memory.memory.base]
    weights = neural_memory_reference.weights_of(config, base)
    q = neural_memory_reference.address(config, p["memory"], silu(x @ p["query"]["kernel"]))
    h = neural_memory_reference.network(np, config, p["memory"]["network"].get("norm", {}), weights, q)
    h = (rms_normed(h) * p["recall_norm"]["scale"][0]) @ p["recall"]["kernel"]
    past = [*past, np.concatenate([attention_row(p["attention"], h), attention_row(p["attention"], x)])]
    half = len(past[0]) // 2
    seen = [(row[:half], place) for place, row in enumerate(past)]
    seen += [(row[half:], place) for place, row in enumerate(past)]
    y = attention(config, p["attention"], x, seen)
    memory, m = neural_memory_reference.step(config, p["memory"], memory, y, reset)
    past = past[-config.chunk_length + 1 :] if config.chunk_length > 1 else []
    return past, memory, gated(p["gate"], y, m)
