"""Linear attention whose decays may be negative or zero, S_t = a_t S_{t-1} + k_t v_t^T, under pLSTM.

In chunks of C steps, with D_ij = a_{j+1} ... a_i,

    o_i = sum_{j <= i} (q_i . k_j) D_ij v_j + a_1 ... a_i q_i S_0,
    S_C = a_1 ... a_C S_0 + sum_j D_Cj k_j v_j^T.

The products are formed as they stand. By logarithms, with signs apart, they would be as good; the gradient of a_t would
not: it is that of the logarithm over a_t, and rounding leaves in the former what does not vanish with a_t.
"""

import jax
import jax.numpy as jnp
from jax import lax

from memrl.errors import check
from memrl.kernels.backends import resolve_backend
from memrl.kernels.chunks import (
    check_chunk_size,
    check_float,
    check_sequences,
    from_chunks,
    quarantined,
    read,
    step_by_step,
    to_chunks,
)
from memrl.types import Array

NAME = "signed_linear_attention"


def signed_linear_attention(
    q: Array,
    k: Array,
    v: Array,
    decay: Array,
    s0: Array | None = None,
    reset: Array | None = None,
    *,
    chunk_size: int = 64,
    backend: str = "auto",
) -> tuple[Array, Array]:
    """Computes S_t = decay_t S_{t-1} + k_t v_t^T and o_t = S_t^T q_t.

    Args:
        q, k: queries and keys, [T, B, H, K].
        v: values, [T, B, H, V].
        decay: one for each head, from -1 to 1, [T, B, H].
        s0: state before the first step, [B, H, K, V]; zeros by default.
        reset: [T, B] bool; true where the state before step t is zero.
        chunk_size: steps that are computed at once; results differ by rounding only.
        backend: "auto" or "xla" (chunks), or "reference" (a plain `lax.scan`, the specification).

    Returns:
        o [T, B, H, V] in v's dtype and s_last [B, H, K, V], float32.

    Raises:
        MemrlError: for a wrong rank, sizes that do not match, or integer inputs.
    """
    backend = resolve_backend(NAME, backend, ("reference", "xla"))
    check_sequences(NAME, q, k, v, s0, reset)
    check_float(NAME, "decay", decay)
    check_chunk_size(NAME, chunk_size)
    check(decay.shape == q.shape[:3], f"{NAME}: decay has shape {decay.shape}, expected {q.shape[:3]}")
    T, B, H, K = q.shape
    s0 = jnp.zeros((B, H, K, v.shape[-1])) if s0 is None else s0.astype(jnp.float32)
    reset = jnp.zeros((T, B), bool) if reset is None else reset
    if backend == "reference" or not (q.size and v.size):
        return _reference(q, k, v, decay, s0, reset)
    decay = jnp.where(reset[..., None], 0, decay)  # a reset is a decay of zero, whatever it was

    def chunked(q, k, v, decay, s0, _):
        return _chunked(q, k, v, decay, s0, min(chunk_size, T))

    return quarantined(chunked, q, (k, v, decay), s0, reset)


def _reference(q, k, v, decay, s0, reset):
    """The specification: one step at a time, differentiated by JAX."""

    def step(s, inputs):
        q_t, k_t, v_t, decay_t, reset_t = inputs
        cut = reset_t[:, None, None, None]
        s = jnp.where(cut, 0, decay_t[..., None, None] * jnp.where(cut, 0, s))
        s = s + k_t[..., :, None] * v_t[..., None, :]
        return s, read(s, q_t)

    sequences = (x.astype(jnp.float32) for x in (q, k, v, decay))
    s_last, o = step_by_step(step, s0, (*sequences, reset))
    return o.astype(v.dtype), s_last


def _chunked(q, k, v, decay, s0, C):
    T, dtype = len(q), v.dtype
    q, k, v = (to_chunks(x.astype(jnp.float32), C) for x in (q, k, v))
    decay = jnp.pad(decay.astype(jnp.float32), ((0, -T % C), (0, 0), (0, 0)), constant_values=1)
    decay = to_chunks(decay, C)
    products = products_between(jnp.concatenate([jnp.ones_like(decay[..., :1]), decay], -1))
    carried, between = products[..., 1:, :1], products[..., 1:, 1:]  # [M, B, H, C, 1] and [M, B, H, C, C]
    pairs = (q @ jnp.swapaxes(k, -1, -2)) * between
    written = k * jnp.swapaxes(between[..., -1:, :], -1, -2)

    def step(s, inputs):
        kept_m, new_m = inputs
        return kept_m * s + new_m, s

    s_last, before = lax.scan(step, s0, (carried[..., -1:, :], jnp.swapaxes(written, -1, -2) @ v))
    return from_chunks(pairs @ v + (carried * q) @ before, T).astype(dtype), s_last


@jax.custom_vjp
def products_between(a: Array) -> Array:
    """D_ij = a_{j+1} ... a_i for j <= i, else 0; [..., C, C] of `a` [..., C].

    Its gradient is made of products too, and nothing is divided by an a_i, which may be zero.
    """
    C = a.shape[-1]
    factors = jnp.broadcast_to(a[..., :, None], (*a.shape, C))
    later = jnp.broadcast_to(jnp.tri(C, k=-1, dtype=bool), factors.shape)
    return jnp.tril(jnp.cumprod(jnp.where(later, factors, 1), -2))


def _products_forward(a):
    products = products_between(a)
    return products, products


def _products_backward(products, g):
    """The sum over i >= t > j of g_ij D_it D_{t-1, j} for each t."""
    later = (jnp.swapaxes(products, -1, -2) @ jnp.tril(g))[..., 1:, :]
    gradient = jnp.sum(later * products[..., :-1, :], -1)
    return (jnp.concatenate([jnp.zeros_like(gradient[..., :1]), gradient], -1),)


products_between.defvjp(_products_forward, _products_backward)
