"""Memora (Behrouz et al. 2025, "It's All Connected", Miras): weights that are distributions.

    M(x) = x + LayerNorm(W_2 GELU(W_1 x))
    W_t = softmax((1 - alpha_t) log W_{t-1} - theta_t grad ||M_base(k_t) - v_t||^2)    over the inputs of each output

and all else as in `titans`: a relative entropy keeps W near what it was, another one near the uniform distribution.
The logarithm is kept, up to a constant for each output, which the softmax takes off. In the paper softmax and logarithm
are taken once in a chunk when training; here at every step, so that a step and an unroll are the same function.

Left out: rates for each channel; a hidden layer 4 times as wide (here 2).
"""

import dataclasses
from typing import ClassVar

from memrl.cores.inner_loop import Optimiser, Retention
from memrl.cores.neural_memory import NeuralMemory, NeuralMemoryConfig


@dataclasses.dataclass(frozen=True)
class MemoraConfig(NeuralMemoryConfig):
    """Hyperparameters of Memora."""

    owner: ClassVar[str] = "core memora"

    residual: bool = True
    """Whether the memory is x + LayerNorm(f(x)) and not the network f alone."""
    retention: Retention = "kl"
    """How the memory forgets."""
    optimiser: Optimiser = "gradient"
    """How the memory learns: by its gradients."""
    max_learning_rate: float = 1.0
    """Bound theta_max of the inner learning rate; softmax makes weights of 1 / d and small gradients."""


class Memora(NeuralMemory):
    """Memora; for its state see `NeuralMemory`."""
