"""TTT-MLP (Sun et al. 2024, "Learning to (Learn at Test Time): RNNs with Expressive Hidden States").

    M(x) = x + LayerNorm(W_2 GELU(W_1 x + b_1) + b_2)

in place of the matrix of `ttt_linear`, where the equations are, with a smaller theta_max. The paper's hidden layer is 4
times as wide as the memory (`expansion`), here it is twice.
"""

import dataclasses
from typing import ClassVar

from memrl.cores.inner_loop import Optimiser, Retention
from memrl.cores.neural_memory import NeuralMemory, NeuralMemoryConfig


@dataclasses.dataclass(frozen=True)
class TTTMLPConfig(NeuralMemoryConfig):
    """Hyperparameters of TTT-MLP."""

    owner: ClassVar[str] = "core ttt_mlp"

    residual: bool = True
    """Whether the memory is x + LayerNorm(f(x)) and not the network f alone."""
    offset: bool = True
    """Whether the memory has biases."""
    retention: Retention = "none"
    """How the memory forgets; the paper's does not."""
    optimiser: Optimiser = "gradient"
    """How the memory learns: by its gradients."""
    max_learning_rate: float = 0.05
    """Bound theta_max of the inner learning rate."""


class TTTMLP(NeuralMemory):
    """TTT-MLP; for its state see `NeuralMemory`."""
