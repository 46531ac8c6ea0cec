"""Titans' neural memory: Behrouz, Zhong & Mirrokni 2024, equations 9 to 15 and its section on parallel training."""

from cores.neural_memory_reference import reference

__all__ = ["PERIOD", "VARIANTS", "reference"]

PERIOD = 12  # no less than the sequences of the tests are long: an episode is compared where it stands
VARIANTS = [
    {"width": 5, "chunk_length": 3, "max_gradient_norm": 0.8, "max_learning_rate": 0.5, "conv_width": 2},
    {"width": 4, "depth": 1, "chunk_length": 5, "max_learning_rate": 0.5},
    {"width": 4, "depth": 3, "expansion": 1, "chunk_length": 1},
    {"width": 4, "depth": 2, "chunk_length": 50, "conv_width": 1},
]
