"""Memora: Behrouz et al. 2025 (Miras), equation 27."""

from cores.neural_memory_reference import reference

__all__ = ["PERIOD", "SAME_AS", "VARIANTS", "reference"]

SAME_AS = "titans"
PERIOD = 12
VARIANTS = [
    {"width": 5, "chunk_length": 3},
    {"width": 4, "optimiser": "momentum", "chunk_length": 5, "max_learning_rate": 0.1},
]
