"""Window attention: multi-head attention (Vaswani et al. 2017) over a sliding window, with rotary positions.

    q_t, k_t, v_t = W_Q x_t, W_K x_t, W_V x_t,   in each head of width K:
    w_ts = softmax_s((R_t q_t) . (R_s k_s) / sqrt(K)),   t - window <= s <= t, of the same episode
    y_t  = W_O [sum_s w_ts v_s]

R_t turns pairs of channels by angles proportional to t (Su et al. 2021), so that scores depend on t - s alone. Keys are
kept as they are and turned when they are read, by their place in the window: positions never grow. It is the control
beside GTrXL: attention, and nothing else of a transformer.

Left out: dropout, grouped queries.
"""

import dataclasses
import math
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx

from memrl.cores.attention import Window, attend, empty_window, look_back
from memrl.cores.base import CoreConfig, Linear, MemoryCore
from memrl.cores.heads import default_heads, merge_heads, split_heads, width_of_head
from memrl.errors import check
from memrl.types import Array


@dataclasses.dataclass(frozen=True)
class WindowAttentionConfig(CoreConfig):
    """Hyperparameters of window attention."""

    owner: ClassVar[str] = "core window_attention"

    window: int = 64
    """Past steps that a step sees, besides itself."""
    heads: int | None = None
    """Number H of heads; as many as leave each a width of 64 or more when not given."""
    rotary_base: float = 10_000.0
    """Base of the rotary angles: pair i turns by base^(-2i/K) per step."""

    def check(self) -> None:
        """Raises `MemrlError` for sizes below one."""
        self.check_positive("window", "heads", "rotary_base")


class WindowAttention(MemoryCore):
    """Multi-head attention over the last steps; its state is a `Window` of keys and values, [B, window, 2 D]."""

    parallel: ClassVar[bool] = True

    def __init__(self, features: int, config: WindowAttentionConfig = WindowAttentionConfig(), *, rngs: nnx.Rngs):
        self.features = features
        self.window, self.rotary_base = config.window, config.rotary_base
        self.heads = config.heads or default_heads(features)
        width = width_of_head(config, "features", features, self.heads)
        check(width % 2 == 0, f"{config.owner}: features / heads is {width}, expected an even number for rotary pairs")
        self.scale = 1 / math.sqrt(width)
        self.input = Linear(features, 3 * features, use_bias=False, rngs=rngs)  # W_Q, W_K, W_V
        self.output = Linear(features, features, use_bias=False, rngs=rngs)

    def initial_state(self, batch_size: int) -> Window:
        """Nothing to look back at."""
        return empty_window(batch_size, self.window, 2 * self.features)

    def unroll(self, state: Window, xs: Array, resets: Array) -> tuple[Window, Array]:
        """See `MemoryCore.unroll`."""
        state, ys, _ = self.unroll_with_readout(state, xs, resets)
        return state, ys

    def unroll_with_readout(self, state: Window, xs: Array, resets: Array) -> tuple[Window, Array, Array]:
        """See `MemoryCore.unroll_with_readout`; the readout is what W_O projects."""
        q, rows = jnp.split(self.input(jnp.swapaxes(xs, 0, 1)), [self.features], -1)
        state, view = look_back(state, rows, resets)
        k, v = (split_heads(x, self.heads) for x in jnp.split(view.rows, 2, -1))
        q = split_heads(q * self.scale, self.heads)
        ys = merge_heads(attend(q, k, v, view, rotary_base=self.rotary_base))
        readout = jnp.swapaxes(ys, 0, 1)
        return state, self.output(readout), readout
