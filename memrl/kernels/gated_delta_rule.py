"""The gated delta rule, S_t = exp(log_decay_t) (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T, under the DeltaNets.

In chunks (Yang et al. 2024, "Parallelizing Linear Transformers with the Delta Rule"; 2025, "Gated Delta Networks"),
step i writes k_i u_i^T, where with c_i the sum of the chunk's log decays

    u_i = beta_i (v_i - exp(c_i) S_0^T k_i - sum_{j < i} exp(c_i - c_j) (k_j . k_i) u_j),

a triangular system for all steps of the chunk, solved for beta v and beta exp(c) k before S_0 is known. With u for v
the rest is gated linear attention. Several Householder steps of one token (Siems et al. 2025, "DeltaProduct") are
several rows of the system, of which the last alone is read. On NVIDIA GPUs a Pallas kernel does all of it at once.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from memrl.errors import check
from memrl.kernels import backends
from memrl.kernels.chunks import (
    SMALLEST_LOG_DECAY,
    check_chunk_size,
    check_float,
    check_sequences,
    decays,
    from_chunks,
    inverse_of_unit_lower,
    quarantined,
    read,
    segments,
    step_by_step,
    sums_in_chunks,
    to_chunks,
)
from memrl.types import Array

MOST_ROWS = 32  # of a chunk: on a CPU the system of a longer one costs more than the chunks that it saves
AXES = "TBHK TBHNK TBHNV TBHN TBH BHKV TB"  # of q, k, v, beta, log_decay, s0 and reset, N the steps of a token


def gated_delta_rule(
    q: Array,
    k: Array,
    v: Array,
    beta: Array,
    log_decay: Array | None = None,
    s0: Array | None = None,
    reset: Array | None = None,
    *,
    chunk_size: int = 64,
    backend: str = "auto",
) -> tuple[Array, Array]:
    """Computes S_t = exp(log_decay_t) (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T and o_t = S_t^T q_t.

    With a leading axis of n steps in k, v and beta, each token takes n such steps, in order; the first one decays.
    Neither keys nor values are scaled or normalised here: for keys of length 1 and 0 <= beta <= 2 no state grows.

    Args:
        q: queries, [T, B, H, K].
        k: keys, [T, B, H, K] or [n, T, B, H, K].
        v: values, [T, B, H, V] or [n, T, B, H, V].
        beta: step sizes, [T, B, H] or [n, T, B, H].
        log_decay: logarithms of the decays, at most 0, [T, B, H]; no decay by default.
        s0: state before the first step, [B, H, K, V]; zeros by default.
        reset: [T, B] bool; true where the state before step t is zero.
        chunk_size: tokens that are computed at once, at most; results differ by rounding only. "xla" takes fewer where
            they would be more than 32 rows of a system.
        backend: "auto" (CPU and TPU: "xla", NVIDIA GPU: "pallas"), "reference" (a plain `lax.scan`, the
            specification), "xla" (chunks), "pallas" (GPU only) or "interpret" (the same kernel, for tests).

    Returns:
        o [T, B, H, V] in v's dtype and s_last [B, H, K, V], float32.

    Raises:
        MemrlError: for a wrong rank, sizes that do not match, or integer inputs.
    """
    name = "gated_delta_rule"
    backend = backends.resolve_backend(name, backend, ("auto", "reference", "xla", "pallas", "interpret"))
    check(k.ndim in (4, 5), f"{name}: k has shape {k.shape}, expected [T, B, H, K] or [n, T, B, H, K]")
    check(v.ndim == k.ndim, f"{name}: v has shape {v.shape}, expected rank {k.ndim} like k")
    if k.ndim == 4:
        k, v, beta = k[None], v[None], beta[None]
    n = k.shape[0]
    check(n >= 1 and v.shape[0] == n, f"{name}: v has {v.shape[0]} steps for a token, expected {n} like k")
    check_sequences(name, q, k[0], v[0], s0, reset)
    T, B, H, K = q.shape
    check(beta.shape == (n, T, B, H), f"{name}: beta has shape {beta.shape}, expected {(n, T, B, H)}")
    check(
        log_decay is None or log_decay.shape == (T, B, H),
        f"{name}: log_decay has shape {getattr(log_decay, 'shape', None)}, expected {(T, B, H)}",
    )
    check_float(name, "beta", beta)
    check_float(name, "log_decay", log_decay)
    check_chunk_size(name, chunk_size)
    s0 = jnp.zeros((B, H, K, v.shape[-1])) if s0 is None else s0.astype(jnp.float32)
    reset = jnp.zeros((T, B), bool) if reset is None else reset
    log_decay = jnp.zeros((T, B, H)) if log_decay is None else log_decay
    log_decay = jnp.where(reset[..., None], 0, log_decay)  # what came before is gone, however it decays
    k, v, beta = (jnp.moveaxis(x, 0, 3) for x in (k, v, beta))  # [T, B, H, n, ...]
    dtype = v.dtype
    if backend == "auto" and not backends.auto_has_kernels():
        backend = "xla"
    if q.size == 0 or v.size == 0:
        backend = "reference"
    if backend in ("reference", "xla"):
        q, k, v, beta, log_decay = (x.astype(jnp.float32) for x in (q, k, v, beta, log_decay))
    if backend == "reference":
        o, s_last = _reference(q, k, v, beta, log_decay, s0, reset)
    else:
        log_decay = jnp.maximum(log_decay, SMALLEST_LOG_DECAY)
        path = _chunked if backend == "xla" else partial(_fused, backend=backend)
        o, s_last = quarantined(partial(path, chunk_size=min(chunk_size, T)), q, (k, v, beta, log_decay), s0, reset)
    return o.astype(dtype), s_last


def _reference(q, k, v, beta, log_decay, s0, reset):
    """The specification: one step at a time, differentiated by JAX."""

    def step(s, inputs):
        q_t, k_t, v_t, beta_t, log_decay_t, reset_t = inputs
        cut = reset_t[:, None, None, None]
        s = jnp.where(cut, 0, jnp.exp(log_decay_t)[..., None, None] * jnp.where(cut, 0, s))
        for i in range(k_t.shape[2]):
            k_i, v_i = k_t[:, :, i], v_t[:, :, i]
            error = v_i - read(s, k_i)
            s = s + (beta_t[:, :, i, None] * k_i)[..., :, None] * error[..., None, :]
        return s, read(s, q_t)

    s_last, o = step_by_step(step, s0, (q, k, v, beta, log_decay, reset))
    return o, s_last


def _chunked(q, k, v, beta, log_decay, s0, reset, *, chunk_size):
    T, _, _, n, _ = k.shape
    chunk_size = min(chunk_size, max(1, MOST_ROWS // n))
    q, k, v, beta, log_decay = (to_chunks(x, chunk_size) for x in (q, k, v, beta, log_decay))
    parts = segments(to_chunks(reset[..., None], chunk_size))
    k, v, beta = (x.reshape(*x.shape[:3], chunk_size * n, *x.shape[5:]) for x in (k, v, beta))  # rows: [M, B, H, C n]

    def by_row(x):  # of tokens' values [..., C]
        return jnp.repeat(x, n, -1)

    cumulative = sums_in_chunks(log_decay, parts)  # [M, B, H, C]
    decay = decays(cumulative, parts.pairs)  # [M, B, H, C, C] of tokens
    total = cumulative[..., -1:]
    seen = jnp.where(parts.carried, jnp.exp(cumulative), 0)
    left = by_row(jnp.where(parts.last, jnp.exp(total - cumulative), 0))
    kept = jnp.where(parts.unbroken, jnp.exp(total[..., 0]), 0)  # [M, B, H]

    k_transposed = jnp.swapaxes(k, -1, -2)
    row_decay = by_row(jnp.repeat(decay, n, -2)) if n > 1 else decay
    system = jnp.tril(beta[..., None] * (k @ k_transposed) * row_decay, -1)
    right = beta[..., None] * jnp.concatenate([v, by_row(seen)[..., None] * k], -1)
    solved = inverse_of_unit_lower(system) @ right
    u_fresh, u_state = solved[..., : v.shape[-1]], solved[..., v.shape[-1] :]
    written = jnp.swapaxes(left[..., None] * k, -1, -2)

    def step(s, inputs):
        u_fresh_m, u_state_m, written_m, kept_m = inputs
        u = u_fresh_m - u_state_m @ s
        return kept_m[..., None, None] * s + written_m @ u, (s, u)

    s_last, (before, u) = lax.scan(step, s0, (u_fresh, u_state, written, kept))
    pairs = (q @ k_transposed) * by_row(decay)
    return from_chunks(pairs @ u + (seen[..., None] * q) @ before, T), s_last


# JAX cannot differentiate a kernel: where one may run, the backward pass is chosen by platform too.


def _fused(q, k, v, beta, log_decay, s0, reset, *, chunk_size, backend):
    """`_chunked` of arrays in their own dtypes, o in v's, by a kernel where `backend` has one."""
    return _by_backend(q, k, v, beta, log_decay, s0, reset, chunk_size, backend)


def _values(q, k, v, beta, log_decay, s0, reset, chunk_size, backend):
    inputs = q, k, v, beta, log_decay, s0, reset
    return _run(_chunked_in_dtypes, _triton, f"{AXES} -> TBHV BHKV", chunk_size, backend)(*inputs)


_by_backend: Any = jax.custom_vjp(_values, nondiff_argnums=(7, 8))


def _by_backend_forward(q, k, v, beta, log_decay, s0, reset, chunk_size, backend):
    inputs = q, k, v, beta, log_decay, s0, reset
    axes = f"{AXES} -> TBHV BHKV MBHKV"
    *outputs, states = _run(_chunked_and_no_states, _triton_and_states, axes, chunk_size, backend)(*inputs)
    return tuple(outputs), (inputs, states)


def _by_backend_backward(chunk_size, backend, residuals, cotangents):
    inputs, states = residuals
    axes = f"{AXES} MBHKV TBHV BHKV -> {AXES.removesuffix(' TB')}"
    gradients = _run(_chunked_adjoint, _triton_adjoint, axes, chunk_size, backend)(*inputs, states, *cotangents)
    return *gradients, None


_by_backend.defvjp(_by_backend_forward, _by_backend_backward)


def _run(cpu: Callable, cuda: Callable, axes: str, chunk_size: int, backend: str) -> Callable[..., Any]:
    cpu, cuda = (partial(path, chunk_size=chunk_size) for path in (cpu, cuda))
    return backends.by_platform("gated_delta_rule", backend, axes=axes, cpu=cpu, cuda=cuda)


def _triton(*inputs, **options):
    from memrl.kernels import gated_delta_rule_triton  # imports Pallas, 0.3 s

    return gated_delta_rule_triton.forward(*inputs, **options)


def _triton_and_states(*inputs, **options):
    return _triton(*inputs, keep_states=True, **options)


def _triton_adjoint(q, k, v, beta, log_decay, s0, reset, states, g, g_last, **options):
    from memrl.kernels import gated_delta_rule_triton

    del s0  # the first of the states
    return gated_delta_rule_triton.backward(q, k, v, beta, log_decay, reset, states, g, g_last, **options)


def _chunked_in_dtypes(q, k, v, beta, log_decay, s0, reset, *, chunk_size):
    dtype = v.dtype
    q, k, v, beta, log_decay = (x.astype(jnp.float32) for x in (q, k, v, beta, log_decay))
    o, s_last = _chunked(q, k, v, beta, log_decay, s0, reset, chunk_size=chunk_size)
    return o.astype(dtype), s_last


def _chunked_and_no_states(*inputs, chunk_size):
    """With zeros where the kernel returns states, which `_chunked_adjoint` does not read."""
    *_, states = jax.eval_shape(partial(_triton_and_states, chunk_size=chunk_size), *inputs)
    return *_chunked_in_dtypes(*inputs, chunk_size=chunk_size), jnp.zeros(states.shape, states.dtype)


def _chunked_adjoint(q, k, v, beta, log_decay, s0, reset, states, g, g_last, *, chunk_size):
    del states
    path = partial(_chunked_in_dtypes, reset=reset, chunk_size=chunk_size)
    _, adjoint = jax.vjp(path, q, k, v, beta, log_decay, s0)
    return adjoint((g, g_last))
