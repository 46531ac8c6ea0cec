"""Atlas: Behrouz et al. 2025 (ATLAS), equations 9 and 32 to 33; OmegaNet, equation 10."""

from cores.neural_memory_reference import reference

__all__ = ["PERIOD", "VARIANTS", "reference"]

PERIOD = 12
VARIANTS = [
    {"width": 6, "optimiser": "momentum", "chunk_length": 4, "window": 3, "max_gradient_norm": 0.8},
    {"width": 5, "chunk_length": 3, "window": 3},
    {"width": 4, "optimiser": "gradient", "chunk_length": 2, "window": 7, "degree": 3, "residual": False},
    {"width": 4, "optimiser": "momentum", "chunk_length": 5, "window": 2, "degree": 1, "bias": "huber", "offset": True},
    {"width": 6, "retention": "kl", "optimiser": "gradient", "chunk_length": 50, "window": 5, "max_learning_rate": 1.0},
    {"width": 6, "chunk_length": 1, "window": 4, "offset": True, "max_learning_rate": 0.02},
]
