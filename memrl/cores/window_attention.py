"""Window attention: multi-head attention (Vaswani et al. 2017) over a sliding window, with rotary positions.

    q_t, k_t, v_t = W_Q x_t, W_K x_t, W_V x_t,   in each head of width K:
    w_ts = softmax_s((R_t q_t) . (R_s k_s) / sqrt(K)),   t - window <= s <= t, of the same episode
    y_t  = W_O [sum_s w_ts v_s]

R_t turns pairs of channels by angles proportional to t (Su et al. 2021), so that scores depend on t - s alone. Keys are
kept as they are and turned when they are read, by their place in the window: positions never grow. It is the control
beside GTrXL: attention, and nothing else of a transformer.

With persistent tokens (Sukhbaatar et al. 2019) p_1, p_2, ..., which are learned and of no position, the softmax goes
over q_t . W_K p_i / sqrt(K) too, and the sum over W_V p_i: every step sees them, whatever episode it is of.

Left out: dropout, grouped queries.
"""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from memrl.cores.attention import View, Window, attend, empty_window, look_back, weights_of_rows
from memrl.cores.base import CoreConfig, Linear, MemoryCore
from memrl.cores.heads import default_heads, merge_heads, split_heads, width_of_head
from memrl.errors import check
from memrl.types import Array


@dataclasses.dataclass(frozen=True)
class AttentionConfig(CoreConfig):
    """Hyperparameters that attention has whatever its steps see."""

    heads: int | None = None
    """Number H of heads; as many as leave each a width of 64 or more when not given."""
    rotary_base: float = 10_000.0
    """Base of the rotary angles: pair i turns by base^(-2i/K) per step."""
    persistent: int = 0
    """Number of persistent tokens."""

    def check(self) -> None:
        """Raises `MemrlError` for sizes below one."""
        self.check_positive("heads", "rotary_base")
        check(self.persistent >= 0, f"{self.owner}: persistent is {self.persistent}, expected at least 0")
        super().check()

    @property
    def steps_back(self) -> int:
        """Past steps that a step sees at most, besides itself."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class WindowAttentionConfig(AttentionConfig):
    """Hyperparameters of window attention."""

    owner: ClassVar[str] = "core window_attention"

    window: int = 64
    """Past steps that a step sees, besides itself."""

    def check(self) -> None:
        """Raises `MemrlError` for sizes below one."""
        self.check_positive("window")
        super().check()

    @property
    def steps_back(self) -> int:
        """The window."""
        return self.window


class Attention(nnx.Module):
    """What makes queries and rows of keys and values, looks at a view of such rows, and projects what it saw."""

    def __init__(self, features: int, config: AttentionConfig, *, rngs: nnx.Rngs):
        self.features, self.rotary_base = features, config.rotary_base
        self.heads = config.heads or default_heads(features)
        width = width_of_head(config, "features", features, self.heads)
        check(width % 2 == 0, f"{config.owner}: features / heads is {width}, expected an even number for rotary pairs")
        self.scale = 1 / math.sqrt(width)
        self.input = Linear(features, 3 * features, use_bias=False, rngs=rngs)  # W_Q, W_K, W_V
        self.output = Linear(features, features, use_bias=False, rngs=rngs)
        small = jax.nn.initializers.normal(0.02)
        self.persistent = nnx.Param(small(rngs.params(), (config.persistent, features))) if config.persistent else None

    def queries_and_rows(self, xs: Array) -> tuple[Array, Array]:
        """Of tokens [..., D]: [..., D], and keys and values [..., 2 D]."""
        q, rows = jnp.split(self.input(xs), [self.features], -1)
        return q, rows

    def rows(self, xs: Array) -> Array:
        """Of tokens [..., D] that are only looked at: keys and values [..., 2 D]."""
        return xs @ self.input.kernel[..., self.features :].astype(xs.dtype)

    def look(self, q: Array, view: View) -> Array:
        """Of queries [B, T, D] and a view of rows of one or more tokens each: the heads' means [B, T, D]."""
        k, v = self._heads_of(view.rows)
        q, always = split_heads(q * self.scale, self.heads), self._always(q.dtype)
        return merge_heads(attend(q, k, v, view, rotary_base=self.rotary_base, always=always))

    def weights(self, q: Array, view: View) -> Array:
        """The weights of `look`, [B, T, H, W + T] by row."""
        k, _ = self._heads_of(view.rows)
        q, always = split_heads(q * self.scale, self.heads), self._always(q.dtype)
        keys = None if always is None else always[0]
        return weights_of_rows(q, k, view, rotary_base=self.rotary_base, always=keys)

    def _always(self, dtype: Any) -> tuple[Array, Array] | None:
        """Keys and values [P, H, K] of the persistent tokens, if there are any."""
        if self.persistent is None:
            return None
        k, v = self._heads_of(self.rows(self.persistent[...].astype(dtype)))
        return k[:, 0], v[:, 0]

    def _heads_of(self, rows: Array) -> tuple[Array, Array]:
        """Keys and values [..., N, H, K] of the N tokens of each row."""
        tokens = rows.reshape(*rows.shape[:-1], -1, 2, self.heads, self.features // self.heads)
        return tokens[..., 0, :, :], tokens[..., 1, :, :]


class WindowAttention(Attention, MemoryCore):
    """Multi-head attention over the last steps; its state is a `Window` of keys and values, [B, window, 2 D]."""

    parallel: ClassVar[bool] = True

    def __init__(self, features: int, config: AttentionConfig = WindowAttentionConfig(), *, rngs: nnx.Rngs):
        super().__init__(features, config, rngs=rngs)
        self.window = config.steps_back

    def initial_state(self, batch_size: int) -> Window:
        """Nothing to look back at."""
        return empty_window(batch_size, self.window, 2 * self.features)

    def unroll(self, state: Window, xs: Array, resets: Array) -> tuple[Window, Array]:
        """See `MemoryCore.unroll`."""
        state, ys, _ = self.unroll_with_readout(state, xs, resets)
        return state, ys

    def unroll_with_readout(self, state: Window, xs: Array, resets: Array) -> tuple[Window, Array, Array]:
        """See `MemoryCore.unroll_with_readout`; the readout is what W_O projects."""
        q, rows = self.queries_and_rows(jnp.swapaxes(xs, 0, 1))
        state, view = look_back(state, rows, resets)
        readout = jnp.swapaxes(self.look(q, view), 0, 1)
        return state, self.output(readout), readout

    def attention_map(self, xs: Array, resets: Array) -> Array:
        """See `MemoryCore.attention_map`."""
        q, rows = self.queries_and_rows(jnp.swapaxes(xs, 0, 1))
        _, view = look_back(self.initial_state(xs.shape[1]), rows, resets)
        return self.weights(q, view)[..., self.window :]
