"""The short convolution before the recurrence of Mamba, the delta rules and others, with its inputs carried over."""

import jax
import jax.numpy as jnp
from flax import nnx

from memrl.types import Array


class ShortConvolution(nnx.Module):
    """y_t = b + sum_{i < width} w_i x_{t-i} in each channel by itself; inputs from before a reset count as zero.

    Taps start uniform within 1 / sqrt(width), as in torch's Conv1d; the bias, which starts so there too, at zero.

    Its state, [B, width - 1, D] float32, holds the last inputs of the episode, the latest last. Without it a step and
    an unroll would be different functions.
    """

    def __init__(self, features: int, width: int, *, use_bias: bool = True, rngs: nnx.Rngs):
        self.features, self.width = features, width
        bound = width**-0.5
        init = jax.nn.initializers.uniform(2 * bound)
        self.kernel = nnx.Param(init(rngs.params(), (width, features)) - bound)  # tap i, of x_{t-i}
        self.bias = nnx.Param(jnp.zeros((features,))) if use_bias else None

    def initial_state(self, batch_size: int) -> Array:
        """Zeros [B, width - 1, D]."""
        return jnp.zeros((batch_size, self.width - 1, self.features))

    def __call__(self, state: Array, xs: Array, resets: Array, count: Array | None = None) -> tuple[Array, Array]:
        """T steps: `xs` [T, B, D] and `resets` [T, B] give the last state and `ys` [T, B, D], in the dtype of `xs`.

        Where a `count` [B] is given the state is that after so many steps.
        """
        T, carried = len(xs), self.width - 1
        before = jnp.swapaxes(state, 0, 1)
        padded = jnp.concatenate([before, xs.astype(state.dtype)])  # x_t is padded[t + width - 1]
        age = steps_since_reset(resets, at_most=carried)  # [T, B]
        kernel = self.kernel[...].astype(xs.dtype)
        ys = jnp.zeros_like(xs)
        for i in range(self.width):
            tap = padded[carried - i : carried - i + T].astype(xs.dtype)
            ys = ys + kernel[i][None, None] * jnp.where((i <= age)[..., None], tap, 0)
        if self.bias is not None:
            ys = ys + self.bias[...].astype(xs.dtype)[None, None]
        ages = jnp.concatenate([jnp.full_like(age, carried, shape=(1, age.shape[1])), age])  # after 0 to T steps
        if count is None:
            last, youngest = padded[T:], ages[T:]
        else:
            places = count[None] + jnp.arange(carried)[:, None]
            last = jnp.take_along_axis(padded, places[..., None], 0)
            youngest = jnp.take_along_axis(ages, count[None], 0)
        kept = jnp.arange(carried - 1, -1, -1)[:, None] <= youngest  # what came before the last reset is forgotten
        return jnp.swapaxes(jnp.where(kept[..., None], last, 0), 0, 1), ys


def steps_since_reset(resets: Array, at_most: int, before: Array | None = None) -> Array:
    """How many steps each step is away from the last reset, 0 at a reset itself; [T, B].

    Where none came it is `at_most`, or counted on from the steps `before` [B] of the episode; and never more.
    """
    t = jnp.arange(len(resets))[:, None]
    unknown = -at_most if before is None else -before[None]
    last = jax.lax.cummax(jnp.where(resets, t, unknown), axis=0)
    return jnp.minimum(t - last, at_most)
