"""Aaren (Feng et al. 2024, "Attention as an RNN"): attention of one learned query over the whole episode, step by step.

s_t = q . k_t / sqrt(K),   m'_t = m_{t-1} - lambda,   m_t = max(m'_t, s_t)
a_t = exp(m'_t - m_t) a_{t-1} + exp(s_t - m_t) v_t,   c_t = exp(m'_t - m_t) c_{t-1} + exp(s_t - m_t)
y_t = W_o (a_t / c_t)

in each head. The query is a parameter and does not depend on the input; this is what makes attention a recurrence.
m is a running maximum, so that no exponential overflows: all prefixes at once are an associative scan.

Attention over all of the past knows nothing of its order. The paper's inputs carry positions; an agent has no last
position, so here each score falls by lambda with every step of its age, lambda a number for each head that starts as in
ALiBi (Press et al. 2022, "Train Short, Test Long") and is learnt. `positions="none"` is the module as published.

Left out: nothing of the module; in a stack each layer has a query of its own.
"""

import dataclasses
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from memrl.cores.base import CoreConfig, Linear, MemoryCore
from memrl.cores.heads import default_heads, merge_heads, split_heads, width_of_head
from memrl.kernels import linear_scan
from memrl.types import Array

NOTHING = -1e30  # the maximum over no step


@dataclasses.dataclass(frozen=True)
class AarenConfig(CoreConfig):
    """Hyperparameters of Aaren."""

    owner: ClassVar[str] = "core aaren"

    heads: int | None = None
    """Number H of heads, each of which forgets at a pace of its own; when not given, as many as divide D into at least
    4 features each, or one."""
    positions: Literal["slopes", "none"] = "slopes"
    """What tells the steps of an episode apart: a slope of the scores for each head, or nothing."""

    def check(self) -> None:
        """Raises `MemrlError` for no head."""
        self.check_positive("heads")


class AarenState(NamedTuple):
    """Of the episode so far, in each head."""

    maximum: Array  # m [B, H]
    total: Array  # c [B, H]: sum of exp(s - m)
    weighted: Array  # a [B, H, V]: sum of exp(s - m) v


class Aaren(MemoryCore):
    """Attention with a learned query over all that came before; its state is a maximum and two sums per head."""

    parallel: ClassVar[bool] = True

    def __init__(self, features: int, config: AarenConfig = AarenConfig(), *, rngs: nnx.Rngs):
        self.features, self.heads = features, config.heads or default_heads(features, 4)
        self.width = width_of_head(config, "features", features, self.heads)  # K = V
        self.query = nnx.Param(jax.random.normal(rngs.params(), (self.heads, self.width)))
        slopes = 2.0 ** (2 - 8 * jnp.arange(1, self.heads + 1) / self.heads)
        self.log_slopes = nnx.Param(jnp.log(slopes)) if config.positions == "slopes" else None  # log lambda [H]
        self.input = Linear(features, 2 * features, use_bias=False, rngs=rngs)  # k, v
        self.output = Linear(features, features, use_bias=False, rngs=rngs)

    def initial_state(self, batch_size: int) -> AarenState:
        """A maximum over nothing, and zeros."""
        shape = (batch_size, self.heads)
        return AarenState(jnp.full(shape, NOTHING, jnp.float32), jnp.zeros(shape), jnp.zeros((*shape, self.width)))

    def unroll(self, state: AarenState, xs: Array, resets: Array) -> tuple[AarenState, Array]:
        """See `MemoryCore.unroll`."""
        T, B = resets.shape
        k, v = (split_heads(x, self.heads).astype(jnp.float32) for x in jnp.split(self.input(xs), 2, -1))
        scores = jnp.sum(k * self.query[...][None, None], -1) / self.width**0.5  # [T, B, H]
        slopes = jnp.zeros(self.heads) if self.log_slopes is None else jnp.exp(self.log_slopes[...])
        maximum = running_maximum(scores, slopes, state.maximum, resets)
        before = jnp.concatenate([state.maximum[None], maximum])[:T] - slopes[None, None]
        cut = resets[..., None]
        kept = jnp.exp(jnp.where(cut, 0, before) - jnp.where(cut, 0, maximum))
        entering = jnp.exp(scores - maximum)[..., None]
        sums = jnp.concatenate([entering * v, entering], -1)  # [T, B, H, V + 1]
        first = jnp.concatenate([state.weighted, state.total[..., None]], -1).reshape(B, -1)
        decay = jnp.repeat(kept, self.width + 1, -1)
        hs, last = linear_scan(decay, merge_heads(sums), first, resets)
        hs, last = split_heads(hs, self.heads), last.reshape(B, self.heads, -1)
        ys = self.output(merge_heads(hs[..., :-1] / hs[..., -1:]).astype(xs.dtype))
        m_last = maximum[-1] if T else state.maximum
        return AarenState(m_last, last[..., -1], last[..., :-1]), ys


def running_maximum(scores: Array, slopes: Array, start: Array, resets: Array) -> Array:
    """The largest score of the episode so far, [T, B, H], each having fallen by its slope [H] with every step since.

    `start` [B, H] is that before the first step.
    """

    def step(m: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        s, reset = now
        m = jnp.where(reset[:, None], s, jnp.maximum(m - slopes[None], s))
        return m, m

    return lax.scan(step, start, (scores, resets))[1]
