"""RetNet's multi-scale retention (Sun et al. 2023, "Retentive Network: A Successor to Transformer").

    q_t = R^t W_q x_t,   k_t = R^t W_k x_t / sqrt(K),   v_t = W_v x_t,   in head h = 0, 1, ...
    S_t = gamma_h S_{t-1} + k_t v_t^T,   gamma_h = 1 - 2^(-e_h)
    y_t = W_o (GroupNorm(S_t^T q_t) * SiLU(W_g x_t))

R turns the pairs of channels (2i, 2i + 1) by angles theta_i from 1 down to 1/10000, so that q_t . k_s depends on t - s
(xPos, with gamma as its decay). t counts from the start of the episode. The paper's e_h are 5, 6, 7, ..., memories of
32 steps and more, for texts; here they are spread evenly over an interval, by default from 1 to 8, for episodes.

Left out: the division of scores by sums of decays and of their rows, which the group normalisation undoes; the biases
of that normalisation. The authors' code starts all matrices but W_o smaller, by a gain of 2^-2.5, and its later
versions normalise by the root mean square alone, without weights.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from memrl.cores.base import Linear, MemoryCore
from memrl.cores.heads import HeadNorm, HeadsConfig, merge_heads, split_heads
from memrl.cores.linear_attention import kernel_backend, split_widths
from memrl.errors import check
from memrl.kernels import gated_linear_attention
from memrl.types import Array

State = tuple[Array, Array]


@dataclasses.dataclass(frozen=True)
class RetNetConfig(HeadsConfig):
    """Hyperparameters of multi-scale retention."""

    owner: ClassVar[str] = "core retnet"

    least_width: ClassVar[int] = 16

    heads: int | None = None
    """Number H of heads, each with a decay of its own; when not given, as many as divide D into at least 16 features
    each, or one: the paper's 256 would leave an agent a single decay."""
    exponents: tuple[float, float] = (1.0, 8.0)
    """Exponents e of the first and of the last head: they remember about 2^e steps."""
    key_width: int | None = None
    """Width K of each head's queries and keys, even; D / H, rounded up to even, when not given."""
    value_width: int | None = None
    """Width V of each head's values; twice D / H when not given."""

    def check(self) -> None:
        """Raises `MemrlError` for a size below one, an odd width of keys, or exponents that are not above zero."""
        super().check()
        check(min(self.exponents) > 0, f"{self.owner}: exponents is {self.exponents}, expected more than 0")
        width = self.key_width
        check(width is None or width % 2 == 0, f"{self.owner}: key_width is {width}, expected an even number")


class RetNet(MemoryCore):
    """Multi-scale retention; its state is S [B, H, K, V] float32 and the position t [B] int32."""

    parallel: ClassVar[bool] = True

    def __init__(self, features: int, config: RetNetConfig = RetNetConfig(), *, rngs: nnx.Rngs):
        self.features = features
        self.heads, K, V = config.head_sizes(features, values=2)
        H, self.key_width, self.value_width = self.heads, K + K % 2, V
        self.log_decay = np.log1p(-(2.0 ** -np.linspace(*config.exponents, H)))  # log gamma [H]
        self.widths = (H * self.key_width, H * self.key_width, H * V, H * V)
        self.project = Linear(features, sum(self.widths), use_bias=False, rngs=rngs)
        # The first output of an episode is (q . k) v: with the usual 1e-5, a small q . k has gradients in the hundreds.
        self.norm = HeadNorm(H, V, epsilon=1e-3, centred=True)
        self.output = Linear(H * V, features, use_bias=False, rngs=rngs)

    def initial_state(self, batch_size: int) -> State:
        """Zeros [B, H, K, V] and [B]."""
        memory = jnp.zeros((batch_size, self.heads, self.key_width, self.value_width))
        return memory, jnp.zeros((batch_size,), jnp.int32)

    def unroll(self, state: State, xs: Array, resets: Array) -> tuple[State, Array]:
        """See `MemoryCore.unroll`."""
        memory, position = state
        positions = count_on(position, resets)
        # Between the projections in float32: normalised heads would magnify the rounding of bfloat16.
        parts = split_widths(self.project(xs).astype(jnp.float32), self.widths)
        q, k, v, g = (split_heads(x, self.heads) for x in parts)
        turns = angles(positions, self.key_width)
        log_decay = jnp.asarray(self.log_decay, jnp.float32)
        o, memory = gated_linear_attention(
            rotated(q, turns),
            rotated(k * self.key_width**-0.5, turns),
            v,
            jnp.broadcast_to(log_decay[None, None, :, None], (*q.shape[:3], 1)),
            memory,
            resets,
            backend=kernel_backend(xs),
        )
        position = jnp.concatenate([position[None] - 1, positions])[-1] + 1
        return (memory, position), self.output(merge_heads(self.norm(o) * nnx.silu(g)).astype(xs.dtype))


def count_on(position: Array, resets: Array) -> Array:
    """The position of each step in its episode, [T, B]: from `position` [B] on, and from 0 on after a reset."""
    t = jnp.arange(len(resets), dtype=position.dtype)[:, None]
    return t - jax.lax.cummax(jnp.where(resets, t, -position[None]), axis=0)


WRAP = 1024  # steps


def angles(positions: Array, width: int) -> Array:
    """t theta_i less whole turns, [T, B, width / 2]; t theta_i itself loses its digits in long episodes."""
    theta = 10_000.0 ** -np.linspace(0, 1, width // 2)
    slow, fast = jnp.divmod(positions[..., None], WRAP)
    per_wrap = jnp.asarray(WRAP * theta % (2 * np.pi), jnp.float32)[None, None]
    return slow * per_wrap + fast * jnp.asarray(theta, jnp.float32)[None, None]


def rotated(xs: Array, angles: Array) -> Array:
    """Pairs of channels of `xs` [T, B, H, K] turned by `angles` [T, B, K / 2]."""
    cos, sin = jnp.cos(angles)[..., None, :], jnp.sin(angles)[..., None, :]
    even, odd = xs[..., 0::2], xs[..., 1::2]
    return jnp.stack([cos * even - sin * odd, sin * even + cos * odd], -1).reshape(xs.shape)
