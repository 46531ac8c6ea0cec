"""GTrXL: the gated Transformer-XL (Parisotto et al. 2020), with the relative attention of Dai et al. 2019.

One layer on inputs E, with M the last `memory` inputs of the episode, s <= t, and R_a = [sin(a w_i), cos(a w_i)] of
frequencies w_i = 10000^(-2i/D):

    Y = g(E, ReLU(RelativeMHA(LN([M, E])))),   E' = g'(Y, ReLU(MLP(LN(Y)))),   MLP(x) = W_2 ReLU(W_1 x + b_1) + b_2
    score_ts = ((q_t + u) . k_s + (q_t + v) . W_R R_{t-s}) / sqrt(K)
    r = s(W_r y + U_r x),   z = s(W_z y + U_z x - b_g),   h = tanh(W_h y + U_h (r * x)),   g(x, y) = (1 - z) x + z h

It is a whole layer, with norms and gates of its own: in a stack with `norm="none"` and `residual="none"` it is the
paper's, and in the default stack it has one more norm and residual round it. Every step sees just `memory` steps back,
where in the paper the later ones of a segment see more. The paper stops the gradient at M; here it goes through, as in
every core, so that how a sequence is cut changes nothing: an agent's unroll starts from a stored state, where it ends.

Left out: dropout; the gates other than the GRU's that the paper compares.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from memrl.cores.attention import View, Window, attend, empty_window, look_back, weights_of_rows
from memrl.cores.base import CoreConfig, LayerNorm, Linear, MemoryCore
from memrl.cores.gate import Gate
from memrl.cores.heads import default_heads, merge_heads, split_heads, width_of_head
from memrl.errors import check
from memrl.types import Array


@dataclasses.dataclass(frozen=True)
class GTrXLConfig(CoreConfig):
    """Hyperparameters of GTrXL."""

    owner: ClassVar[str] = "core gtrxl"

    memory: int = 64
    """Past steps that a step sees, besides itself; the paper has 512."""
    heads: int | None = None
    """Number H of heads; as many as leave each a width of 64 or more when not given."""
    hidden_size: int | None = None
    """Hidden width of the MLP; 4 D when not given."""
    gate: bool = True
    """Whether sublayers join through gates; added otherwise, which is the paper's TrXL-I."""
    gate_bias: float = 2.0
    """Bias b_g of the gates towards the identity."""

    def check(self) -> None:
        """Raises `MemrlError` for sizes below one."""
        self.check_positive("memory", "heads", "hidden_size")


class GTrXL(MemoryCore):
    """A layer of the gated Transformer-XL; its state is a `Window` of its own inputs, [B, memory, D]."""

    parallel: ClassVar[bool] = True

    def __init__(self, features: int, config: GTrXLConfig = GTrXLConfig(), *, rngs: nnx.Rngs):
        check(features % 2 == 0, f"core gtrxl: features is {features}, expected an even number for sines and cosines")
        self.features = features
        self.memory = config.memory
        self.heads = H = config.heads or default_heads(features)
        self.width = K = width_of_head(config, "features", features, H)
        self.norm = LayerNorm(features, rngs=rngs)
        self.query = Linear(features, features, use_bias=False, rngs=rngs)
        self.key_value = Linear(features, 2 * features, use_bias=False, rngs=rngs)
        self.position = Linear(features, features, use_bias=False, rngs=rngs)  # W_R
        small = jax.nn.initializers.normal(0.02)
        self.content_bias = nnx.Param(small(rngs.params(), (H, K)))  # u
        self.position_bias = nnx.Param(small(rngs.params(), (H, K)))  # v
        self.output = Linear(features, features, use_bias=False, rngs=rngs)
        hidden = config.hidden_size or 4 * features
        self.mlp_norm = LayerNorm(features, rngs=rngs)
        self.mlp_hidden = Linear(features, hidden, rngs=rngs)
        self.mlp_output = Linear(hidden, features, rngs=rngs)
        self.gate = Gate(features, config.gate_bias, rngs=rngs) if config.gate else _add
        self.mlp_gate = Gate(features, config.gate_bias, rngs=rngs) if config.gate else _add

    def initial_state(self, batch_size: int) -> Window:
        """Nothing to look back at."""
        return empty_window(batch_size, self.memory, self.features)

    def unroll(self, state: Window, xs: Array, resets: Array) -> tuple[Window, Array]:
        """See `MemoryCore.unroll`."""
        state, view = look_back(state, jnp.swapaxes(xs, 0, 1), resets)
        ys = self.gate(xs, jnp.swapaxes(self.attention(view), 0, 1))
        return state, self.mlp_gate(ys, self.mlp_output(nnx.relu(self.mlp_hidden(self.mlp_norm(ys)))))

    def attention(self, view: View) -> Array:
        """Relative multi-head attention; [B, T, D]."""
        inputs = self.norm(view.rows)
        q, by_age = self._queries(inputs)
        if q.shape[1] >= self.width:
            ys = attend(q, *self._keys_values(inputs), view, by_age=by_age)
        else:
            # With few queries it is cheaper to take these through W_K, and the means through W_V, than all inputs.
            kernel = self.key_value.kernel[...].astype(q.dtype).reshape(self.features, 2, self.heads, self.width)
            q = jnp.einsum("bthk,dhk->bthd", q, kernel[:, 0])
            means = attend(q, inputs[:, :, None], inputs[:, :, None], view, by_age=by_age)
            ys = jnp.einsum("bthd,dhk->bthk", means, kernel[:, 1])
        return self.output(merge_heads(ys))

    def attention_map(self, xs: Array, resets: Array) -> Array:
        """See `MemoryCore.attention_map`."""
        _, view = look_back(self.initial_state(xs.shape[1]), jnp.swapaxes(xs, 0, 1), resets)
        inputs = self.norm(view.rows)
        q, by_age = self._queries(inputs)
        return weights_of_rows(q, self._keys_values(inputs)[0], view, by_age=by_age)[..., self.memory :]

    def _queries(self, inputs: Array) -> tuple[Array, Array]:
        """Of the rows that are seen: (q_t + u) / sqrt(K) [B, T, H, K], and the scores by age [B, T, H, memory + 1]."""
        q = split_heads(self.query(inputs[:, self.memory :]), self.heads)
        for_content, for_position = (
            (q + bias[...].astype(q.dtype)[None, None]) / math.sqrt(self.width)
            for bias in (self.content_bias, self.position_bias)
        )
        positions = split_heads(self.position(sinusoids(self.memory, self.features).astype(q.dtype)), self.heads)
        return for_content, jnp.einsum("bthk,ahk->btha", for_position, positions)

    def _keys_values(self, inputs: Array) -> tuple[Array, Array]:
        """[B, memory + T, H, K], twice."""
        k, v = (split_heads(x, self.heads) for x in jnp.split(self.key_value(inputs), 2, -1))
        return k, v


def _add(x: Array, y: Array) -> Array:
    return x + nnx.relu(y)


def sinusoids(memory: int, features: int) -> Array:
    """R_a for the ages a = memory, ..., 1, 0; [memory + 1, D]."""
    frequencies = 10_000.0 ** (-np.arange(0, features, 2) / features)
    angles = np.arange(memory, -1, -1)[:, None] * frequencies
    return jnp.asarray(np.concatenate([np.sin(angles), np.cos(angles)], 1), jnp.float32)
