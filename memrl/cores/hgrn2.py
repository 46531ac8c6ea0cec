"""HGRN-2 (Qin et al. 2024, "HGRN2: Gated Linear RNNs with State Expansion").

    f = l + (1 - l) sigmoid(W_f x + b_f) in each channel,   i = SiLU(W_i x + b_i),   o = sigmoid(W_o x + b_o)
    S_t = diag(f_t) S_{t-1} + (1 - f_t) i_t^T   in each head,   y_t = W RMSNorm(S_t^T o_t)   of all heads at once

The gated recurrence h_t = f_t h_{t-1} + (1 - f_t) i_t of HGRN, its state expanded from H K numbers to H K V: what is
forgotten in a channel makes room for the input, so that 1 - f is the key, and the output gate o the query.

Left out: bounds l that all layers learn together, growing from 0 in the lowest; here l is given, and a stack may give
each layer its own; the bias of W. The authors' code has layer norm for RMS norm by default; a later one, of
flash-linear-attention, takes SiLU for o and nothing for i.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from memrl.cores.base import Linear, MemoryCore
from memrl.cores.heads import HeadNorm, HeadsConfig, merge_heads, split_heads
from memrl.cores.linear_attention import kernel_backend, split_widths
from memrl.errors import check
from memrl.kernels import gated_linear_attention
from memrl.types import Array


@dataclasses.dataclass(frozen=True)
class HGRN2Config(HeadsConfig):
    """Hyperparameters of HGRN-2."""

    owner: ClassVar[str] = "core hgrn2"

    lower_bound: float = 0.0
    """Lower bound l of the forget gates; the published stacks have 0 in the lowest layer and more in each one above."""

    def check(self) -> None:
        """Raises `MemrlError` for a size below one, or a bound outside of [0, 1)."""
        super().check()
        check(0 <= self.lower_bound < 1, f"{self.owner}: lower_bound is {self.lower_bound}, expected in [0, 1)")


class HGRN2(MemoryCore):
    """Gated linear recurrence with an expanded state, S [B, H, K, V] float32."""

    parallel: ClassVar[bool] = True

    def __init__(self, features: int, config: HGRN2Config = HGRN2Config(), *, rngs: nnx.Rngs):
        self.features, self.lower_bound = features, config.lower_bound
        self.heads, self.key_width, self.value_width = H, K, V = config.head_sizes(features)
        self.widths = (H * K, H * V, H * K)
        self.project = Linear(features, sum(self.widths), rngs=rngs)
        self.norm = HeadNorm(1, H * V)
        self.output = Linear(H * V, features, use_bias=False, rngs=rngs)

    def initial_state(self, batch_size: int) -> Array:
        """Zeros [B, H, K, V]."""
        return jnp.zeros((batch_size, self.heads, self.key_width, self.value_width))

    def unroll(self, state: Array, xs: Array, resets: Array) -> tuple[Array, Array]:
        """See `MemoryCore.unroll`."""
        # Between the projections in float32: normalised heads would magnify the rounding of bfloat16.
        parts = split_widths(self.project(xs).astype(jnp.float32), self.widths)
        f, i, o = (split_heads(x, self.heads) for x in parts)
        k = (1 - self.lower_bound) * nnx.sigmoid(-f)  # 1 - f without cancellation
        q, v = nnx.sigmoid(o), nnx.silu(i)
        log_decay = log_forget(f, self.lower_bound)
        y, state = gated_linear_attention(q, k, v, log_decay, state, resets, backend=kernel_backend(xs))
        return state, self.output(merge_heads(self.norm(split_heads(merge_heads(y), 1))).astype(xs.dtype))


def log_forget(f: Array, lower_bound: float) -> Array:
    """log(l + (1 - l) sigmoid(f)) = log sigmoid(f) - log sigmoid(f - log l): finite however small the gate is."""
    if lower_bound == 0:
        return jax.nn.log_sigmoid(f)
    return jax.nn.log_sigmoid(f) - jax.nn.log_sigmoid(f - math.log(lower_bound))
