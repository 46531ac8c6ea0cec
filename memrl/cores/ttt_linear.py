"""TTT-Linear (Sun et al. 2024, "Learning to (Learn at Test Time): RNNs with Expressive Hidden States").

    M(x) = x + LayerNorm(W x + b)
    W_t = W_{t-1} - theta_t grad ||M_base(k_t) - v_t||^2,   theta_t = theta_max sigmoid(w_theta x)
    y_t = W_o (RMSNorm(M_t(q_t)) * SiLU(W_gate x_t))

without momentum and without forgetting; M_base is M at the start of the chunk of C steps that t is in, which the paper
calls a mini-batch of 16. theta_max is half of the paper's, whose code halves the loss.

Left out: the rotary positions and the two convolutions of the authors' code (q, k and v are those of `titans`), heads,
the learnt factor for each place in a mini-batch.
"""

import dataclasses
from typing import ClassVar

from memrl.cores.inner_loop import Optimiser, Retention
from memrl.cores.neural_memory import NeuralMemory, NeuralMemoryConfig


@dataclasses.dataclass(frozen=True)
class TTTLinearConfig(NeuralMemoryConfig):
    """Hyperparameters of TTT-Linear."""

    owner: ClassVar[str] = "core ttt_linear"

    depth: int = 1
    """Layers of the memory; 1 for a matrix."""
    residual: bool = True
    """Whether the memory is x + LayerNorm(f(x)) and not the network f alone."""
    offset: bool = True
    """Whether the memory has biases."""
    retention: Retention = "none"
    """How the memory forgets; the paper's does not."""
    optimiser: Optimiser = "gradient"
    """How the memory learns: by its gradients."""
    max_learning_rate: float = 0.5
    """Bound theta_max of the inner learning rate."""


class TTTLinear(NeuralMemory):
    """TTT-Linear; for its state see `NeuralMemory`."""
