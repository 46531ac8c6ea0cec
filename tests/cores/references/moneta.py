"""Moneta: Behrouz et al. 2025 (Miras), equations 24 and 25."""

from cores.neural_memory_reference import reference

__all__ = ["PERIOD", "SAME_AS", "VARIANTS", "reference"]

SAME_AS = "titans"
PERIOD = 12
VARIANTS = [
    {"width": 5, "chunk_length": 3},
    {"width": 4, "optimiser": "newton_schulz", "retention": "decay", "chunk_length": 4},
]
