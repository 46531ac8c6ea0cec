"""Titans with memory as a gate: Behrouz, Zhong & Mirrokni 2024, equations 26 to 28."""

from cores import neural_memory_reference
from cores.references import window_attention
from cores.references.common import rms_normed, silu

SAME_AS = "titans"
PERIOD = 12
VARIANTS = [
    {"width": 5, "chunk_length": 3, "max_learning_rate": 0.5, "attention_window": 3, "heads": 2, "persistent": 2},
    {
        "width": 4,
        "depth": 1,
        "chunk_length": 5,
        "attention_window": 2,
        "heads": 4,
        "persistent": 0,
        "rotary_base": 10.0,
    },
    {
        "width": 4,
        "chunk_length": 1,
        "attention_window": 13,
        "persistent": 1,
        "bias": "huber",
        "optimiser": "newton_schulz",
    },
]


def reference(config, p, state, xs, resets):
    y, window = window_attention.reference(config, p["attention"], state.window, xs, resets)
    m, memory = neural_memory_reference.reference(config, p["memory"], state.memory, xs, resets)
    return gated(p["gate"], y, m), state._replace(window=window, memory=memory)


def gated(p, y, m):
    return rms_normed(y) * p["attention_norm"]["scale"][0] * silu(rms_normed(m) * p["memory_norm"]["scale"][0])
