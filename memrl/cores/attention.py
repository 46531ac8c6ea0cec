"""Attention over a window of past steps: what GTrXL, window attention and Titans share.

A step sees itself and the steps before it that are of its episode and at most W steps old, however the sequence is cut:
the last W rows of the episode are carried over. Arrays lead with the batch here, [B, T, ...], as attention wants it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from memrl.cores.convolution import steps_since_reset
from memrl.types import Array

MASKED = -1e30  # finite: the gradient of a softmax with infinities is NaN
SMALLEST_BLOCK = 32


class Window(NamedTuple):
    """The last W rows of the episode, of whatever attention looks back at."""

    rows: Array  # [B, W, F] float32, the latest last, zeros where the episode is younger
    filled: Array  # [B] int32, how many of them the episode has filled, 0 to W


class View(NamedTuple):
    """What T steps look at: the carried rows, and their own."""

    rows: Array  # [B, W + T, F], zeros for rows that are not finite; for a single step, for those that it does not see
    seen: Array  # [B, T] int32: step t sees rows W + t - seen to W + t
    broken: Array  # [B, T] bool: it sees a row that was not finite and is now zero


def empty_window(batch_size: int, window: int, width: int) -> Window:
    """The window at the start of an episode: nothing to see."""
    return Window(jnp.zeros((batch_size, window, width)), jnp.zeros((batch_size,), jnp.int32))


def look_back(state: Window, rows: Array, resets: Array) -> tuple[Window, View]:
    """Moves the window over new rows [B, T, F] with resets [T, B]; the view has the dtype of the new rows."""
    T, W = rows.shape[1], state.rows.shape[1]
    next_too = jnp.concatenate([resets, jnp.zeros_like(resets, shape=(1, resets.shape[1]))])
    seen = steps_since_reset(next_too, at_most=W, before=state.filled).T  # [B, T + 1]
    seen, filled = seen[:, :-1], seen[:, -1]
    all_rows = jnp.concatenate([state.rows, rows.astype(state.rows.dtype)], 1)
    ages = jnp.arange(W, -1, -1)[None]  # of the last W + 1 rows
    # A weight of zero times NaN is NaN, so that what no step may see is taken out, and put back where it is seen.
    if T == 1:
        visible = jnp.where((ages <= seen)[..., None], all_rows, 0)
        return Window(visible[:, 1:], filled), View(visible.astype(rows.dtype), seen, jnp.zeros_like(seen, bool))
    last = jnp.where((ages[:, :-1] <= filled[:, None])[..., None], all_rows[:, T:], 0)
    bad = ~jnp.isfinite(all_rows).all(-1)
    finite = jnp.where(bad[..., None], 0, all_rows).astype(rows.dtype)
    return Window(last, filled), View(finite, seen, _any_seen(bad, seen))


def _any_seen(bad: Array, seen: Array) -> Array:
    """Whether a step sees any of the rows `bad` [B, W + T]; [B, T]."""
    earlier = _padded(jnp.cumsum(bad, 1, dtype=jnp.int32), 1, 1, 0)  # of each row, how many before it are bad
    W = bad.shape[1] - seen.shape[1]
    oldest = jnp.arange(W, bad.shape[1])[None] - seen
    return earlier[:, W + 1 :] > jnp.take_along_axis(earlier, oldest, 1)


def attend(
    q: Array,
    k: Array,
    v: Array,
    view: View,
    *,
    by_age: Array | None = None,
    rotary_base: float | None = None,
    always: tuple[Array, Array] | None = None,
) -> Array:
    """Of each step, the mean of the values it sees, weighted with the softmax of its scores: [B, T, H, V].

    The steps are cut into blocks of about W, so that time and memory grow with T W and not with T squared. No scaling
    happens here.

    Args:
        q: queries [B, T, H, K].
        k: keys [B, W + T, H, K], or [B, W + T, 1, K] when the heads share them, or [B, W + T, N, H, K]: N of each row.
        v: values [B, W + T, H, V], or with one head, or N of each row.
        view: which rows are seen; the result is NaN where one of them was broken.
        by_age: [B, T, H, W + 1], added to the score of the key that is W, ..., 1, 0 steps old.
        rotary_base: when given, queries and keys are turned by their positions, see `rotate`.
        always: keys [P, H, K] and values [P, H, V] that every step sees; they have no position.
    """
    T = q.shape[1]
    W = k.shape[1] - T
    M = max(1, T // max(W, SMALLEST_BLOCK))  # blocks of C steps, C at least W unless there is one block
    C = -(-T // M)
    q = jnp.where(view.broken[..., None, None], 0, q)
    k, v = (x.reshape(*x.shape[:2], -1, *x.shape[-2:]) for x in (k, v))
    q, k, v = _blocks(q, M, C), _windows(k, W, M, C), _windows(v, W, M, C)
    scores_always = None if always is None else jnp.einsum("bmchk,phk->bmhcp", q, always[0])
    if rotary_base is not None:
        q, k = rotate(q, np.arange(W, W + C), rotary_base), rotate(k, np.arange(W + C), rotary_base)
    scores = jnp.einsum("bmchk,bmsnhk->bmhcsn", q, k)
    if by_age is not None:
        scores = scores + _skew(jnp.moveaxis(_blocks(by_age, M, C), 3, 2))[..., None]
    seen = _blocks(view.seen, M, C)[:, :, None, :, None]
    age = (W + np.arange(C)[:, None] - np.arange(W + C))[None, None, None]
    visible = (age >= 0) & (age <= seen)
    masked = jnp.where(visible[..., None], scores.astype(jnp.float32), MASKED).reshape(*scores.shape[:-2], -1)
    if scores_always is not None:
        masked = jnp.concatenate([masked, scores_always.astype(jnp.float32)], -1)
    weights = jax.nn.softmax(masked).astype(v.dtype)
    of_rows = weights[..., : scores.shape[-2] * scores.shape[-1]]
    ys = jnp.einsum("bmhcsn,bmsnhv->bmchv", of_rows.reshape(scores.shape), v)
    if always is not None:
        ys = ys + jnp.einsum("bmhcp,phv->bmchv", weights[..., of_rows.shape[-1] :], always[1])
    ys = ys.reshape(ys.shape[0], M * C, *ys.shape[3:])[:, :T]
    return jnp.where(view.broken[..., None, None], jnp.nan, ys)


def weights_of_rows(
    q: Array,
    k: Array,
    view: View,
    *,
    by_age: Array | None = None,
    rotary_base: float | None = None,
    always: Array | None = None,
) -> Array:
    """The weights with which `attend` takes the mean, of each row those of all its values: [B, T, H, W + T].

    They are the means of values that tell the rows apart, one-hot vectors. `always` has the keys alone.
    """
    rows = k.shape[1]
    one_hot = jnp.eye(rows).reshape(1, rows, *(1,) * (k.ndim - 3), rows)
    values = jnp.broadcast_to(one_hot, (*k.shape[:-2], 1, rows))
    nothing = None if always is None else (always, jnp.zeros((*always.shape[:-1], rows)))
    return attend(q, k, values, view, by_age=by_age, rotary_base=rotary_base, always=nothing)


def _blocks(x: Array, M: int, C: int) -> Array:
    """[B, T, ...] as [B, M, C, ...], with zeros after the end."""
    x = _padded(x, 1, 0, M * C - x.shape[1])
    return x.reshape(x.shape[0], M, C, *x.shape[2:])


def _windows(x: Array, W: int, M: int, C: int) -> Array:
    """[B, W + T, ...] as [B, M, W + C, ...]: each block of C, after the W rows before it."""
    if M == 1:
        return x[:, None]
    blocks = _blocks(_padded(x, 1, C - W, 0), M + 1, C)
    return jnp.concatenate([blocks[:, :-1, C - W :], blocks[:, 1:]], 2)


def _skew(by_age: Array) -> Array:
    """Scores [..., C, W + 1] by age, oldest first, as scores [..., C, W + C] by row: step c is W + c rows in."""
    *leading, C, ages = by_age.shape
    flat = _padded(by_age, -1, 0, C).reshape(*leading, -1)
    return flat[..., : flat.shape[-1] - C].reshape(*leading, C, ages - 1 + C)


def _padded(x: Array, axis: int, before: int, after: int) -> Array:
    widths = [(0, 0)] * x.ndim
    widths[axis] = (before, after)
    return jnp.pad(x, widths)


def rotate(x: Array, positions: np.ndarray, base: float) -> Array:
    """Turns the pairs (i, i + K/2) of x [B, M, S, ..., K] by the angle position * base^(-2i/K).

    The product of two vectors so turned depends on the difference of their positions alone.
    """
    half = x.shape[-1] // 2
    angles = positions[:, None] * base ** (-np.arange(half) / half)
    angles = angles.reshape(1, 1, len(positions), *(1,) * (x.ndim - 4), half)
    cos, sin = (jnp.asarray(f(angles), x.dtype) for f in (np.cos, np.sin))
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)
