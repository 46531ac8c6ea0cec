"""The window of the Omega rule (Behrouz et al. 2025, ATLAS): at each step a memory learns from the last c tokens.

    S_t = eta_t S_{t-1} - theta_t sum_{j=0}^{c-1} gamma_{t,j} grad l(M_base; k_{t-j}, v_{t-j})

A token is what one step gives to learn. Those of an earlier episode have no share, and the c - 1 before a sequence are
part of the state. On the grid of chunks (see `memrl.cores.chunk_grid`) each chunk of C steps has its own tokens and the
c - 1 before them, L = C + c - 1 in all, so that step s of a chunk learns from its tokens s to s + c - 1.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from memrl.cores.chunk_grid import chunks_needed, to_grid
from memrl.types import Array


class Tokens(NamedTuple):
    """What can be learnt from; leaves [T, B, ...], and [B, c - 1, ...] in a state."""

    k: Array  # [T, B, inputs of the memory]
    v: Array  # [T, B, d]
    threshold: Array  # of the loss [T, B]
    episode: Array  # int32 [T, B]: number of resets since the state, 0 and -1 in a state: of the running one or not


def no_tokens(batch_size: int, window: int, inputs: int, width: int) -> Tokens | tuple[()]:
    """Those before the first step of an episode; nothing for a window of one."""
    if window == 1:
        return ()
    rows = (batch_size, window - 1)
    return Tokens(jnp.zeros((*rows, inputs)), jnp.zeros((*rows, width)), jnp.zeros(rows), jnp.full(rows, -1, jnp.int32))


def with_the_past(past: Tokens | tuple[()], tokens: Tokens, count: Array) -> tuple[Tokens, Tokens | tuple[()]]:
    """T tokens after those of the state, [c - 1 + T, B, ...]; and the state's after the first `count` [B] of them."""
    if not isinstance(past, Tokens):
        return tokens, ()
    last = tokens.episode[-1]
    tokens = jax.tree.map(lambda old, new: jnp.concatenate([old.swapaxes(0, 1), new]), past, tokens)
    places = count[:, None] + jnp.arange(past.episode.shape[1])[None]
    kept = jax.tree.map(lambda x: x[places, jnp.arange(count.shape[0])[:, None]], tokens)  # [B, c - 1, ...]
    running = kept.episode == last[:, None]
    k, v, threshold, _ = jax.tree.map(lambda x: zero_where(~running, x), kept)
    return tokens, Tokens(k, v, threshold, running.astype(jnp.int32) - 1)


def tokens_of_chunks(tokens: Tokens, phase: Array, T: int, C: int) -> Tokens:
    """[c - 1 + T, B, ...] as [M, B, L, ...]: of each chunk of C steps its own tokens, after the c - 1 before them."""
    before = len(tokens.k) - T
    earlier = -(-before // C)  # chunks that tokens may come from besides a chunk itself
    M = chunks_needed(T, C)

    def lay(x: Array) -> Array:
        grid = to_grid(x, phase + (earlier * C - before), C, M + earlier)
        return jnp.concatenate([grid[i : i + M] for i in range(earlier + 1)], 2)[:, :, earlier * C - before :]

    return jax.tree.map(lay, tokens)


def windows(x: Array, c: int) -> Array:
    """Of tokens [B, L, ...] the window of each step, [B, C, c, ...], the oldest first."""
    C = x.shape[1] - c + 1
    return jnp.stack([x[:, j : j + C] for j in range(c)], 2)


def shares(gates: Array | tuple[()], real: Array, episodes: Array) -> Array:
    """gamma [M, B, C, c], the oldest token first: that of the step for its own episode's tokens, and 0 for others.

    Args:
        gates: the steps' own, [M, B, C, c]; nothing for a window of one, where a step learns from its token alone.
        real: [M, B, C] bool: the step is no gap of the grid.
        episodes: those of the tokens [M, B, L].
    """
    if not isinstance(gates, jax.Array):
        return real[..., None].astype(jnp.float32)
    c = gates.shape[-1]
    seen = jax.vmap(lambda x: windows(x, c))(episodes)
    return jnp.where((seen == seen[..., -1:]) & real[..., None], gates, 0)


def by_token(amounts: Array, shares: Array) -> Array:
    """Amounts of steps [..., R, C] as amounts of tokens [..., R, L], by the steps' shares [..., C, c] in them."""
    *rows, C, c = shares.shape
    if c == 1:
        return amounts * shares[..., None, :, 0]
    # Rows padded to L + 1 and read as rows of L: row s then starts at column s.
    apart = jnp.pad(shares, (*((0, 0) for _ in rows), (0, 0), (0, C))).reshape(*rows, -1)
    return amounts @ apart[..., : C * (C + c - 1)].reshape(*rows, C, C + c - 1)


def zero_where(condition: Array, x: Array) -> Array:
    """`x`, zero where `condition`, which has its first axes."""
    return jnp.where(condition.reshape(*condition.shape, *(1,) * (x.ndim - condition.ndim)), 0, x)
