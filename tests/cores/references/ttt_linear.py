"""TTT-Linear: Sun et al. 2024, equations 1 to 5 and their section on mini-batches."""

from cores.neural_memory_reference import reference

__all__ = ["PERIOD", "SAME_AS", "VARIANTS", "reference"]

SAME_AS = "titans"
PERIOD = 12
VARIANTS = [
    {"width": 5, "chunk_length": 3},
    {"width": 4, "chunk_length": 1, "bias": "dot_product"},
]
