"""The steps of an inner loop in blocks, with all that does not depend on the memory (see `memrl.cores.inner_loop`).

A block is at most C steps of one chunk, so that all its gradients are taken at the same weights. In dual form the
weights after its steps, and the momentum after the last, are sums of these gradients and of what was there before:

    W_t = A_t W_start + B_t S_start - sum_s c_ts g_s,   g_s the gradient of token s

The factors come of the gates and of the resets alone, and so they are computed for all blocks at once.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from memrl.cores.inner_window import Tokens, by_token, shares, with_the_past, zero_where
from memrl.kernels.chunks import decays, segments, sums_in_chunks
from memrl.types import Array


class Steps(NamedTuple):
    """What the inner loop takes of T steps, float32."""

    q: Array  # [T, B, inputs of the memory]
    k: Array  # [T, B, inputs of the memory]
    v: Array  # [T, B, d]
    rate: Array  # theta [T, B]
    log_keep: Array  # log(1 - alpha) [T, B]
    log_momentum: Array  # log eta [T, B]
    threshold: Array  # of the loss [T, B]
    gates: Array | tuple[()] = ()  # gamma [T, B, c], the oldest token first; empty for a window of one


class Marks(NamedTuple):
    """What else is known of a step; bool [T, B]."""

    resets: Array
    bad: Array  # one of its numbers was not finite, and all of them are zero
    real: Array  # it is no gap of the grid


class Block(NamedTuple):
    """At most C steps of one chunk; leaves [B, C, ...] here, and [M, B, C, ...] for M chunks."""

    steps: Steps
    marks: Marks
    tokens: Tokens  # [B, L, ...]
    broken: Array  # [B, C] bool: a step of its segment, up to here, was not finite and is now zero
    carried: Array  # [B, C] bool: no reset yet
    kept: Array  # A [B, C]; of the initial weights where not carried
    moved: Array  # B [B, C]
    read: Array  # c [B, C, L], of each token's gradient what the step reads
    left: Array  # [B, L]: and what the momentum after the block has
    left_start: Array  # [B]: and of the momentum before the block
    shares: Array  # gamma [B, C, c]
    complete: Array  # [B] bool: the chunk ends with the block


def tokens_apart(
    past: Tokens | tuple[()], steps: Steps, resets: Array, real: Array
) -> tuple[Steps, Marks, Tokens, Tokens | tuple[()]]:
    """Steps of which those that are `real` [T, B] come first, without their tokens; marks; tokens; and the past after.

    Zero is what was not finite, and what is not real.
    """
    resets, bad = resets & real, ~finite(steps) & real
    steps = jax.tree.map(lambda x: zero_where(bad | ~real, x), steps)
    tokens = Tokens(steps.k, steps.v, steps.threshold, jnp.cumsum(resets, 0, dtype=jnp.int32))
    tokens, past = with_the_past(past, tokens, jnp.sum(real, 0, dtype=jnp.int32))
    return steps._replace(k=(), v=(), threshold=()), Marks(resets, bad, real), tokens, past


def make_blocks(steps: Steps, marks: Marks, tokens: Tokens, complete: Array, *, momentum: bool) -> Block:
    """M blocks of steps and marks [M, B, C, ...] and tokens [M, B, L, ...]; without `momentum` its factors are zero."""
    resets, bad, real = marks
    parts = segments(resets[:, :, None])
    pairs, carried = parts.pairs[:, :, 0], parts.carried[:, :, 0]
    first = resets | (jnp.arange(resets.shape[-1]) == 0)[None, None]

    def products(log_factor: Array) -> tuple[Array, Array]:
        """Of the factors between two steps, [M, B, C, C], and from the start of the segment on, [M, B, C]."""
        between = decays(sums_in_chunks(log_factor[:, :, None], parts), parts.pairs)[:, :, 0]
        return between, apply(between, jnp.where(first, jnp.exp(log_factor), 0))

    keep, kept = products(steps.log_keep)
    if momentum:
        mix, left_start = products(steps.log_momentum)
        left_start = jnp.where(carried, left_start, 0)
        added = jnp.where(real[..., None, :], keep, 0)  # at steps, and not in gaps of the grid
        read, moved, left = added @ mix, apply(added, left_start), mix[..., -1, :]
    else:
        read, moved, left, left_start = keep, jnp.zeros_like(kept), jnp.zeros_like(kept), jnp.zeros_like(kept)
    gamma = shares(steps.gates, real, tokens.episode)
    read = by_token(read * steps.rate[..., None, :], gamma)
    left = by_token((left * steps.rate)[..., None, :], gamma)[..., 0, :]
    broken = jnp.any(pairs & bad[..., None, :], -1)
    start = left_start[..., -1]
    return Block(steps, marks, tokens, broken, carried, kept, moved, read, left, start, gamma, complete)


def apply(matrices: Array, vectors: Array) -> Array:
    """Matrices [..., C, C] times vectors [..., C]."""
    return (matrices @ vectors[..., None])[..., 0]


def finite(tree: object, axes: int = 2) -> Array:
    """Whether all numbers of the tree are finite, for each index of the first `axes` axes."""
    leaves = [jnp.isfinite(x) for x in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack([x.reshape(*x.shape[:axes], -1).all(-1) for x in leaves]), 0)
