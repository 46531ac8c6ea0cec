"""Titans with memory as a layer: Behrouz, Zhong & Mirrokni 2024, equations 29 to 31."""

from cores import neural_memory_reference
from cores.references import window_attention

SAME_AS = "titans"
PERIOD = 12
VARIANTS = [
    {"width": 5, "chunk_length": 3, "max_learning_rate": 0.5, "attention_window": 3, "heads": 2, "persistent": 2},
    {"width": 4, "depth": 3, "chunk_length": 5, "attention_window": 2, "heads": 4, "persistent": 0, "conv_width": 1},
    {
        "width": 4,
        "depth": 1,
        "chunk_length": 1,
        "attention_window": 13,
        "persistent": 1,
        "residual": True,
        "offset": True,
    },
]


def reference(config, p, state, xs, resets):
    y, memory = neural_memory_reference.reference(config, p["memory"], state.memory, xs, resets)
    o, window = window_attention.reference(config, p["attention"], state.window, y, resets)
    return o, state._replace(memory=memory, window=window)
