"""DeltaProduct (Siems et al. 2025, "DeltaProduct: Improving State-Tracking in Linear RNNs via Householder Products").

DeltaNet with n steps of the delta rule for each token, each with a key, a value and a beta of its own:

    q, k_1..n, v_1..n = SiLU(conv(W x)),   q and k scaled to length 1,   beta_i = 2 sigmoid(w_i x),   in each head
    S_{t,0} = S_{t-1},   S_{t,i} = (I - beta_i k_i k_i^T) S_{t,i-1} + beta_i k_i v_i^T,   S_t = S_{t,n}
    y_t = W_o RMSNorm(S_t^T q_t)

so that a token multiplies the state by n generalised Householder matrices: with beta up to 2 two of them are a
rotation, and n + 1 of them permute n + 1 things. Gated DeltaProduct decays the state before the first step, S_{t,0} =
alpha_t S_{t-1}, and gates the output, as `gated_deltanet` does.

Left out: fewer key than value heads. The authors' code has the gated form by default, and values twice as wide.
"""

import dataclasses
from typing import ClassVar

from flax import nnx

from memrl.cores.delta_rule import DeltaRule, DeltaRuleConfig


@dataclasses.dataclass(frozen=True)
class DeltaProductConfig(DeltaRuleConfig):
    """Hyperparameters of DeltaProduct."""

    owner: ClassVar[str] = "core deltaproduct"

    negative_eigenvalues: bool = True
    """Whether beta reaches 2 instead of 1, so that a step can reflect the state."""
    steps: int = 2
    """Number n of Householder matrices for each token."""
    gated: bool = False
    """Whether the state decays and the output is gated, as in Gated DeltaNet."""

    def check(self) -> None:
        """Raises `MemrlError` for a size below one."""
        super().check()
        self.check_positive("steps")


class DeltaProduct(DeltaRule):
    """Linear attention with several delta rules for each token; for its state see `DeltaRule`."""

    def __init__(self, features: int, config: DeltaProductConfig = DeltaProductConfig(), *, rngs: nnx.Rngs):
        super().__init__(features, config, steps=config.steps, gated=config.gated, rngs=rngs)
