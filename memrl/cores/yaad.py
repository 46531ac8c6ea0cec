"""Yaad (Behrouz et al. 2025, "It's All Connected", Miras): a memory that outliers do not upset.

    M(x) = x + LayerNorm(W_2 GELU(W_1 x))
    l = e^2 where e = ||M(k) - v|| <= delta_t, else delta_t (2 e - delta_t),   delta_t = softplus(w_delta x + b)
    W_t = (1 - alpha_t) W_{t-1} - theta_t grad l(M_base; k_t, v_t)

and all else as in `titans`: Huber's loss of the distance, the paper's equation 15. Its Yaad (equation 16) takes signs
of the errors beyond delta_t, with which the memory jumps where an error is zero, and a rounding of inputs is a step.

Left out: rates and thresholds for each channel; a hidden layer 4 times as wide (here 2).
"""

import dataclasses
from typing import ClassVar

from memrl.cores.inner_loop import Optimiser
from memrl.cores.inner_network import Bias
from memrl.cores.neural_memory import NeuralMemory, NeuralMemoryConfig


@dataclasses.dataclass(frozen=True)
class YaadConfig(NeuralMemoryConfig):
    """Hyperparameters of Yaad."""

    owner: ClassVar[str] = "core yaad"

    residual: bool = True
    """Whether the memory is x + LayerNorm(f(x)) and not the network f alone."""
    bias: Bias = "huber"
    """The inner loss."""
    optimiser: Optimiser = "gradient"
    """How the memory learns: by its gradients."""


class Yaad(NeuralMemory):
    """Yaad; for its state see `NeuralMemory`."""
