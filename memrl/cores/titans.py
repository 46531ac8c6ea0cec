"""Titans' neural memory (Behrouz, Zhong & Mirrokni 2024, "Titans: Learning to Memorize at Test Time"), by itself.

    q, k, v = SiLU(conv(W x)),   q and k scaled to length 1
    theta = theta_max sigmoid(w_theta x),   eta = sigmoid(w_eta x),   alpha = sigmoid(w_alpha x)
    S_t = eta_t S_{t-1} - theta_t grad ||M_base(k_t) - v_t||^2
    M_t = (1 - alpha_t) M_{t-1} + S_t
    y_t = W_o (RMSNorm(M_t(q_t)) * SiLU(W_gate x_t))

M is a network of L_M layers that every environment trains for itself, from weights that the agent learns; M_base is M
at the start of the chunk of C steps that t is in. The projections of x have biases.

State: 3 times the network's weights, 4 bytes each, besides the convolution's inputs: 48 KB with the default sizes.

Left out: several memories side by side (heads), rates for each layer or channel. The paper fixes neither the
activation (GELU here), nor the width of the hidden layers, nor theta_max and the bound of the gradient's norm.
"""

import dataclasses
from typing import ClassVar

from memrl.cores.neural_memory import NeuralMemory, NeuralMemoryConfig


@dataclasses.dataclass(frozen=True)
class TitansConfig(NeuralMemoryConfig):
    """Hyperparameters of Titans' neural memory."""

    owner: ClassVar[str] = "core titans"


class Titans(NeuralMemory):
    """A memory trained with momentum and forgetting; for its state see `NeuralMemory`."""
