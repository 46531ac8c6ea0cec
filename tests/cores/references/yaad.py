"""Yaad: Behrouz et al. 2025 (Miras), equations 15 and 26."""

from cores.neural_memory_reference import reference

__all__ = ["PERIOD", "SAME_AS", "VARIANTS", "reference"]

SAME_AS = "titans"
PERIOD = 12
VARIANTS = [
    {"width": 5, "chunk_length": 3},
    {"width": 4, "optimiser": "momentum", "chunk_length": 5},
]
