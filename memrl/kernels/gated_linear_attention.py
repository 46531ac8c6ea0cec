"""Gated linear attention, S_t = diag(exp(log_decay_t)) S_{t-1} + k_t v_t^T, under RetNet, GLA, HGRN-2 and Mamba-2.

In chunks of C steps (Yang et al. 2024, "Gated Linear Attention Transformers with Hardware-Efficient Training"): with
c_i the sum of the chunk's log decays up to step i,

    o_i = sum_{j <= i} (q_i . exp(c_i - c_j) k_j) v_j + exp(c_i) q_i S_0,
    S_C = exp(c_C) S_0 + sum_j exp(c_C - c_j) k_j v_j^T.

Where each channel decays by itself, exp(c_i - c_j) does not factor without overflow. Between sub-chunks it factors at
the start r of the later one, exp(c_i - c_r) exp(c_r - c_j), both at most 1; inside of one it is formed as it stands.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from memrl.errors import check
from memrl.kernels.backends import by_platform, resolve_backend
from memrl.kernels.chunks import (
    SMALLEST_LOG_DECAY,
    Segments,
    check_chunk_size,
    check_float,
    check_sequences,
    decays,
    from_chunks,
    quarantined,
    read,
    segments,
    step_by_step,
    sums_in_chunks,
    to_chunks,
)
from memrl.types import Array

NAME = "gated_linear_attention"
SUBCHUNK = 16  # steps
AXES = "TBHK TBHK TBHV TBHK BHKV TB -> TBHV BHKV"
ADJOINT_AXES = "TBHK TBHK TBHV TBHK BHKV TB TBHV BHKV -> TBHK TBHK TBHV TBHK BHKV"
WIDEST = 256  # keys, of which the Pallas kernel holds a chunk in registers


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
        chunk_size: steps that are computed at once; results differ by rounding only. The Pallas kernel takes a power of
            two between 16 and 64, not above what suits the card: 16 where each channel has its own decay.
        backend: "auto" (CPU and TPU: "xla", NVIDIA GPU: "pallas" up to K = 256), "reference" (a plain `lax.scan`, the
            specification), "xla" (chunks), "pallas" (GPU only) or "interpret" (the same kernel, for tests).

    Returns:
        o [T, B, H, V] in v's dtype and s_last [B, H, K, V], float32.

    Raises:
        MemrlError: for a wrong rank, sizes that do not match, or integer inputs; for K above 256 with "pallas".
    """
    backend = resolve_backend(NAME, backend, ("auto", "reference", "xla", "pallas", "interpret"))
    check_sequences(NAME, q, k, v, s0, reset)
    check_float(NAME, "log_decay", log_decay)
    check_chunk_size(NAME, chunk_size)
    check(
        log_decay.shape in (q.shape, (*q.shape[:3], 1)),
        f"{NAME}: log_decay has shape {log_decay.shape}, expected {q.shape} or {(*q.shape[:3], 1)}",
    )
    T, B, H, K = q.shape
    if backend == "auto" and K > WIDEST:
        backend = "xla"
    check(
        backend in ("reference", "xla") or K <= WIDEST,
        f"{NAME}: K is {K}, expected at most {WIDEST} with backend {backend!r}",
    )
    s0 = jnp.zeros((B, H, K, v.shape[-1])) if s0 is None else s0.astype(jnp.float32)
    reset = jnp.zeros((T, B), bool) if reset is None else reset
    log_decay = jnp.where(reset[..., None, None], 0, log_decay)  # what came before is gone, however it decays
    log_decay = log_decay.astype(jnp.float32)
    if backend == "reference" or not (q.size and v.size):
        return _reference(q, k, v, log_decay, s0, reset)
    log_decay = jnp.maximum(log_decay, SMALLEST_LOG_DECAY)
    kernel = partial(_on_finite_values, chunk_size=min(chunk_size, T), backend=backend)
    return quarantined(kernel, q, (k, v, log_decay), s0, reset)


def _reference(q, k, v, log_decay, s0, reset):
    """The specification: one step at a time, differentiated by JAX."""

    def step(s, inputs):
        q_t, k_t, v_t, log_decay_t, reset_t = inputs
        cut = reset_t[:, None, None, None]
        s = jnp.where(cut, 0, jnp.exp(log_decay_t)[..., None] * jnp.where(cut, 0, s))
        s = s + k_t[..., :, None] * v_t[..., None, :]
        return s, read(s, q_t)

    dtype = v.dtype
    q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
    s_last, o = step_by_step(step, s0, (q, k, v, log_decay, reset))
    return o.astype(dtype), s_last


def _on_finite_values(q, k, v, log_decay, s0, reset, *, chunk_size, backend):
    """o and s_last; like all paths below it takes q, k and v in their dtypes, and returns o in v's."""
    chunked = partial(_chunked, chunk_size=chunk_size)
    if _run(chunked, _triton, AXES, chunk_size, backend) is chunked:  # on every platform: JAX differentiates it best
        return chunked(q, k, v, log_decay, s0, reset)
    return _kernel(q, k, v, log_decay, s0, reset, chunk_size, backend)


def _by_backend(q, k, v, log_decay, s0, reset, chunk_size, backend):
    chunked = partial(_chunked, chunk_size=chunk_size)
    return _run(chunked, _triton, AXES, chunk_size, backend)(q, k, v, log_decay, s0, reset)


_kernel: Any = jax.custom_vjp(_by_backend, nondiff_argnums=(6, 7))


def _kernel_forward(q, k, v, log_decay, s0, reset, chunk_size, backend):
    arguments = q, k, v, log_decay, s0, reset
    return _kernel(*arguments, chunk_size, backend), arguments


def _kernel_backward(chunk_size, backend, arguments, cotangents):
    chunked = partial(_chunked_adjoint, chunk_size=chunk_size)
    return *_run(chunked, _triton_adjoint, ADJOINT_AXES, chunk_size, backend)(*arguments, *cotangents), None


_kernel.defvjp(_kernel_forward, _kernel_backward)


def _run(chunked: Callable, triton: Callable, axes: str, chunk_size: int, backend: str) -> Callable:
    return by_platform(NAME, backend, axes=axes, cpu=chunked, cuda=partial(triton, chunk_size=chunk_size))


def _triton(*arguments, chunk_size, interpret):
    from memrl.kernels import gated_linear_attention_triton  # imports Pallas, 0.3 s

    return gated_linear_attention_triton.forward(*arguments, chunk_size=chunk_size, interpret=interpret)


def _triton_adjoint(*arguments, chunk_size, interpret):
    from memrl.kernels import gated_linear_attention_triton

    return gated_linear_attention_triton.backward(*arguments, chunk_size=chunk_size, interpret=interpret)


def _chunked_adjoint(q, k, v, log_decay, s0, reset, do, ds_last, *, chunk_size):
    """Where the platform is chosen when the program is lowered; computes the outputs again."""
    _, pullback = jax.vjp(partial(_chunked, reset=reset, chunk_size=chunk_size), q, k, v, log_decay, s0)
    return pullback((do, ds_last))


def _chunked(q, k, v, log_decay, s0, reset, *, chunk_size):
    T, dtype = q.shape[0], v.dtype
    q, k, v, log_decay = (to_chunks(x.astype(jnp.float32), chunk_size) for x in (q, k, v, log_decay))
    parts = segments(to_chunks(reset[..., None], chunk_size))
    cumulative = sums_in_chunks(log_decay, parts)  # [M, B, H, C, K or 1]
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
    return from_chunks(pairs @ v + read @ before, T).astype(dtype), s_last


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
