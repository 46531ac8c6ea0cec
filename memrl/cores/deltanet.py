"""DeltaNet (Yang et al. 2024, "Parallelizing Linear Transformers with the Delta Rule over Sequence Length").

    q, k, v = SiLU(conv(W x)),   q and k scaled to length 1,   beta = sigmoid(w_beta x),   in each head
    S_t = S_{t-1} + beta_t k_t (v_t - S_{t-1}^T k_t)^T = (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T
    y_t = W_o RMSNorm(S_t^T q_t)

The delta rule replaces what the memory holds for a key instead of adding to it. With negative eigenvalues,
beta = 2 sigmoid(w_beta x), products of steps can count, as in parity (Grazzi et al. 2025).

Left out: feature maps other than SiLU, normalisation of keys by their sum, hybrids with attention inside of the layer.
"""

import dataclasses
from typing import ClassVar

from flax import nnx

from memrl.cores.delta_rule import DeltaRule, DeltaRuleConfig


@dataclasses.dataclass(frozen=True)
class DeltaNetConfig(DeltaRuleConfig):
    """Hyperparameters of DeltaNet."""

    owner: ClassVar[str] = "core deltanet"


class DeltaNet(DeltaRule):
    """Linear attention with the delta rule; for its state see `DeltaRule`."""

    def __init__(self, features: int, config: DeltaNetConfig = DeltaNetConfig(), *, rngs: nnx.Rngs):
        super().__init__(features, config, gated=False, rngs=rngs)
