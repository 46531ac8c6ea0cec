"""Atlas (Behrouz et al. 2025, "ATLAS: Learning to Optimally Memorize the Context at Test Time").

    M(x) = x_(1) + LayerNorm(W_2 GELU(W_1 x)),   phi(x) = [a_1 x, a_2 x^2, ..., a_p x^p] = [x_(1), ..., x_(p)]
    G_t = sum_{j=0}^{c-1} gamma_{t,j} grad ||M_base(phi(k_{t-j})) - v_{t-j}||^2,   gamma_t = sigmoid(W_gamma x_t) [c]
    S_t = eta_t S_{t-1} - G_t
    W_t = (1 - alpha_t) W_{t-1} + theta_t NewtonSchulz5(S_t)    in each layer
    y_t = W_o (RMSNorm(M_t(phi(q_t))) * SiLU(W_gate x_t))

and all else as in `titans`: the Omega rule, with c gates for each step as the paper counts them, polynomial features of
keys and queries, and Muon. The window sees no token of an earlier episode; M_base is the same for all its tokens, also
for those of the chunk before. `optimiser="momentum"` makes the paper's OmegaNet, with momentum (which is then theta_t
times the gradient's sum, in dual form), `optimiser="gradient"` that of its equation 10.

phi has the powers of each entry alone: the paper's phi_p has all monomials, 561 where d = 32 and p = 2, and with them
a memory would not be of a size for many environments. Newton-Schulz steps with the coefficients of Muon. The bound of
the gradient's norm is that of each token's.

State: 3 times the network's weights and the window's keys and values: 74 KB with the default sizes.

Left out: monomials of several entries, the gated memory of Atlas++, rates for each channel, the layer normalisation of
weights at the ends of chunks; a hidden layer 4 times as wide (here 2).
"""

import dataclasses
from typing import ClassVar

from memrl.cores.inner_loop import Optimiser
from memrl.cores.neural_memory import NeuralMemory, NeuralMemoryConfig


@dataclasses.dataclass(frozen=True)
class AtlasConfig(NeuralMemoryConfig):
    """Hyperparameters of Atlas."""

    owner: ClassVar[str] = "core atlas"

    residual: bool = True
    """Whether the memory is x + LayerNorm(f(x)) and not the network f alone."""
    optimiser: Optimiser = "newton_schulz"
    """How the memory learns: by a sum of its gradients that is made orthogonal (Muon)."""
    window: int = 4
    """Tokens c that a step learns from, its own the last of them."""
    degree: int = 2
    """Highest power p of the features of keys and queries."""


class Atlas(NeuralMemory):
    """Atlas; for its state see `NeuralMemory`."""
