"""Moneta (Behrouz et al. 2025, "It's All Connected", Miras): an l_p loss, and weights held in an l_q norm.

    M(x) = x + LayerNorm(W_2 GELU(W_1 x))
    A_t = (1 - alpha_t) A_{t-1} - theta_t grad ||M_base(k_t) - v_t||_p^p,   W_t = A_t / ||A_t||_q^(q-2)  in each layer

with p = 3, q = 4, and all else as in `titans`. The gradient is with respect to W. In the paper the norm is taken at the
ends of chunks when training; here at every step, so that a step and an unroll are the same function.

Left out: rates for each channel; a hidden layer 4 times as wide (here 2).
"""

import dataclasses
from typing import ClassVar

from memrl.cores.inner_loop import Optimiser, Retention
from memrl.cores.inner_network import Bias
from memrl.cores.neural_memory import NeuralMemory, NeuralMemoryConfig


@dataclasses.dataclass(frozen=True)
class MonetaConfig(NeuralMemoryConfig):
    """Hyperparameters of Moneta."""

    owner: ClassVar[str] = "core moneta"

    residual: bool = True
    """Whether the memory is x + LayerNorm(f(x)) and not the network f alone."""
    bias: Bias = "lp"
    """The inner loss."""
    retention: Retention = "lq"
    """How the memory forgets."""
    optimiser: Optimiser = "gradient"
    """How the memory learns: by its gradients."""


class Moneta(NeuralMemory):
    """Moneta; for its state see `NeuralMemory`."""
