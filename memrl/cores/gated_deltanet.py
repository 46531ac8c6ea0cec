"""Gated DeltaNet (Yang, Kautz & Hatamizadeh 2025, "Gated Delta Networks: Improving Mamba2 with Delta Rule").

    q, k, v = SiLU(conv(W x)),   q and k scaled to length 1,   in each head
    beta = sigmoid(w_beta x),   alpha = exp(-exp(A_log) softplus(w_alpha x + b))
    S_t = alpha_t (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T
    y_t = W_o (RMSNorm(S_t^T q_t) * SiLU(W_gate x))

DeltaNet that can also forget everything at once, as Mamba-2 does.

Left out: hybrids with sliding-window attention or Mamba-2 (a stack may interleave cores), fewer key than value heads.
exp(A_log) starts uniform up to 16, from near 0 where Mamba-2 has 1. The authors' code doubles the width of the values
(`value_width`) and scales q by 1 / sqrt(K), which the norm undoes.
"""

import dataclasses
from typing import ClassVar

from flax import nnx

from memrl.cores.delta_rule import DeltaRule, DeltaRuleConfig


@dataclasses.dataclass(frozen=True)
class GatedDeltaNetConfig(DeltaRuleConfig):
    """Hyperparameters of Gated DeltaNet."""

    owner: ClassVar[str] = "core gated_deltanet"


class GatedDeltaNet(DeltaRule):
    """Linear attention with decay and the delta rule; for its state see `DeltaRule`."""

    def __init__(self, features: int, config: GatedDeltaNetConfig = GatedDeltaNetConfig(), *, rngs: nnx.Rngs):
        super().__init__(features, config, gated=True, rngs=rngs)
