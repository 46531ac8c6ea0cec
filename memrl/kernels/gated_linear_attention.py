"""Gated linear attention, S_t = diag(exp(log_decay_t)) S_{t-1} + k_t v_t^T, under RetNet, GLA, HGRN-2 and Mamba-2.

In chunks of C steps (Yang et al. 2024, "Gated Linear Attention Transformers with Hardware-Efficient Training"): with
c_i the sum of the chunk's log decays up to step i,

    o_i = sum_{j <= i} (q_i . exp(c_i - c_j) k_j) v_j + exp(c_i) q_i S_0,
    S_C = exp(c_C) S_0 + sum_j exp(c_C - c_j) k_j v_j^T.

Where each channel decays by itself, exp(c_i - c_j) does not factor without overflow. Between sub-chunks it factors at
the start r of the later one, exp(c_i - c_r) exp(c_r - c_j), both at most 1; inside of one it is formed as it stands.
"""

from functools import partial

import jax.numpy as jnp
from jax import lax

from memrl.errors import check
from memrl.kernels.backends import resolve_backend
from memrl.kernels.chunks import (
    SMALLEST_LOG_DECAY,
    Segments,
    check_chunk_size,
    check_float,
    check_sequences,
    decays,
    from_chunks,
    quarantined,
    segments,
    sums_in_chunks,
    to_chunks,
)
from memrl.types import Array

SUBCHUNK = 16  # steps


def gated_linear_attention(
    q: Array,
    k: Array,
    v: Array,
    log_decay: Array,
    s0: Array | None = None,
    reset: Array | None = None,
    *,
    chunk_size: int = 64,
    backend: str = "auto",
) -> tuple[Array, Array]:
    """Computes S_t = diag(exp(log_decay_t)) S_{t-1} + k_t v_t^T and o_t = S_t^T q_t.

    Args:
        q, k: queries and keys, [T, B, H, K].
        v: values, [T, B, H, V].
        log_decay: logarithms of the decays, at most 0, [T, B, H, K] or [T, B, H, 1] (one for each head).
        s0: state before the first step, [B, H, K, V]; zeros by default.
        reset: [T, B] bool; true where the state before step t is zero.
        chunk_size: steps that are computed at once; results differ by rounding only.
        backend: "auto", "reference" (a plain `lax.scan`, the specification) or "xla" (chunks).

    Returns:
        o [T, B, H, V] in v's dtype and s_last [B, H, K, V], float32.

    Raises:
        MemrlError: for a wrong rank, sizes that do not match, or integer inputs.
    """
    name = "gated_linear_attention"
    backend = resolve_backend(name, backend, ("reference", "xla"))
    check_sequences(name, q, k, v, s0, reset)
    check_float(name, "log_decay", log_decay)
    check_chunk_size(name, chunk_size)
    check(
        log_decay.shape in (q.shape, (*q.shape[:3], 1)),
        f"{name}: log_decay has shape {log_decay.shape}, expected {q.shape} or {(*q.shape[:3], 1)}",
    )
    T, B, H, K = q.shape
    s0 = jnp.zeros((B, H, K, v.shape[-1])) if s0 is None else s0.astype(jnp.float32)
    reset = jnp.zeros((T, B), bool) if reset is None else reset
    log_decay = jnp.where(reset[..., None, None], 0, log_decay)  # what came before is gone, however it decays
    dtype = v.dtype
    q, k, v, log_decay = (x.astype(jnp.float32) for x in (q, k, v, log_decay))
    if backend == "reference" or T == 0:
        o, s_last = _reference(q, k, v, log_decay, s0, reset)
    else:
        log_decay = jnp.maximum(log_decay, SMALLEST_LOG_DECAY)
        kernel = partial(_chunked, chunk_size=min(chunk_size, T))
        o, s_last = quarantined(kernel, q, (k, v, log_decay), s0, reset)
    return o.astype(dtype), s_last


def _reference(q, k, v, log_decay, s0, reset):
    """The specification: one step at a time, differentiated by JAX."""

    def step(s, inputs):
        q_t, k_t, v_t, log_decay_t, reset_t = inputs
        cut = reset_t[:, None, None, None]
        s = jnp.where(cut, 0, jnp.exp(log_decay_t)[..., None] * jnp.where(cut, 0, s))
        s = s + k_t[..., :, None] * v_t[..., None, :]
        return s, jnp.sum(s * q_t[..., :, None], -2)

    s_last, o = lax.scan(step, s0, (q, k, v, log_decay, reset))
    return o, s_last


def _chunked(q, k, v, log_decay, s0, reset, *, chunk_size):
    T = q.shape[0]
    q, k, v, log_decay = (to_chunks(x, chunk_size) for x in (q, k, v, log_decay))
    parts = segments(to_chunks(reset[..., None], chunk_size))
    cumulative = sums_in_chunks(log_decay, parts.number)  # [M, B, H, C, K or 1]
    total = cumulative[..., -1:, :]

    read = jnp.where(parts.carried[..., None], q * jnp.exp(cumulative), 0)
    written = jnp.where(parts.last[..., None], k * jnp.exp(total - cumulative), 0)
    kept = jnp.where(parts.unbroken[..., None, None], jnp.exp(total), 0)  # [M, B, H, 1, K or 1]
    inside = _pairs_by_head if log_decay.shape[-1] == 1 else _pairs_by_channel
    pairs = inside(q, k, cumulative, parts)

    def step(s, inputs):
        kept_m, new_m = inputs
        return jnp.swapaxes(kept_m, -1, -2) * s + new_m, s

    s_last, before = lax.scan(step, s0, (kept, jnp.swapaxes(written, -1, -2) @ v))
    return from_chunks(pairs @ v + read @ before, T), s_last


def _pairs_by_head(q: Array, k: Array, cumulative: Array, parts: Segments) -> Array:
    """q_i . exp(c_i - c_j) k_j for the pairs that see each other, [M, B, H, C, C]; one decay for all channels."""
    return (q @ jnp.swapaxes(k, -1, -2)) * decays(cumulative[..., 0], parts.pairs)


def _pairs_by_channel(q: Array, k: Array, cumulative: Array, parts: Segments) -> Array:
    """The same with a decay for each channel, in sub-chunks."""
    C, K = q.shape[-2:]
    size = SUBCHUNK if C % SUBCHUNK == 0 else C
    leading, count = q.shape[:-2], C // size
    # Sums start anew before each sub-chunk, the later of two.
    q_s, k_s, c_s = (x.reshape(*leading, count, size, K) for x in (q, k, cumulative))
    start = jnp.concatenate([jnp.zeros_like(c_s[..., :1, 0, :]), c_s[..., :-1, -1, :]], -2)  # [..., count, K]
    between = c_s[..., :, None, :] - c_s[..., None, :, :]  # [..., count, size, size, K]
    exact = jnp.exp(jnp.minimum(between, 0))  # of later steps j > i, which are no pairs, anything finite
    diagonal = jnp.einsum("...ik,...jk,...ijk->...ij", q_s, k_s, exact)
    rows = []
    for later in range(count):
        blocks = [diagonal[..., later, :, :]]
        if later > 0:
            reference = start[..., later, None, :]
            left = q_s[..., later, :, :] * jnp.exp(c_s[..., later, :, :] - reference)
            right = k[..., : later * size, :] * jnp.exp(reference - cumulative[..., : later * size, :])
            blocks.insert(0, left @ jnp.swapaxes(right, -1, -2))
        if later < count - 1:
            blocks.append(jnp.zeros((*leading, size, C - (later + 1) * size)))
        rows.append(jnp.concatenate(blocks, -1))
    return jnp.where(parts.pairs, jnp.concatenate(rows, -2), 0)
