"""TTT-MLP: Sun et al. 2024, their section on the instantiations of f."""

from cores.neural_memory_reference import reference

__all__ = ["PERIOD", "SAME_AS", "VARIANTS", "reference"]

SAME_AS = "titans"
PERIOD = 12
VARIANTS = [
    {"width": 5, "chunk_length": 3},
]
