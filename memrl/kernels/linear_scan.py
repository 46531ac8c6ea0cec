"""The resettable linear recurrence h_t = a_t * h_{t-1} + b_t, the scan under every diagonal state-space core.

A reset cuts the recurrence: where `reset[t]` is true, h_t = b_t, whatever h_{t-1} was. It is a selection and never a
product with zero, so NaN and inf behind a reset reach neither values nor gradients.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from memrl.errors import check
from memrl.kernels.backends import by_platform, resolve_backend
from memrl.kernels.planes import join, planes
from memrl.types import Array


def linear_scan(
    a: Array,
    b: Array,
    h0: Array | None = None,
    reset: Array | None = None,
    *,
    reverse: bool = False,
    backend: str = "auto",
) -> tuple[Array, Array]:
    """Computes h_t = a_t * h_{t-1} + b_t along the first axis.

    Args:
        a: decay, [T, B, N], or [N] when it is constant in time and over the batch. Real or complex.
        b: input, [T, B, N]. Real or complex.
        h0: state before the first step, [B, N]; zeros by default.
        reset: [T, B] bool; true where the state before step t is zero.
        reverse: scan from the last step to the first: h_t = a_t * h_{t+1} + b_t, with `h0` before step T - 1.
        backend: "auto" (CPU and TPU: "xla", NVIDIA GPU: "pallas"), "reference" (a plain `lax.scan`, the
            specification), "xla", "pallas" (GPU only) or "interpret" (the same kernel, for tests).

    Returns:
        h [T, B, N] in the common dtype of a and b, and h_last [B, N], the state after the last step in scan order, in
        the dtype of the carry: float32 (complex64) or wider.

    Raises:
        MemrlError: for a wrong rank, sizes that do not match, or integer inputs.
    """
    backend = resolve_backend("linear_scan", backend, ("auto", "reference", "xla", "pallas", "interpret"))
    _check_arguments(a, b, h0, reset)
    dtype = jnp.result_type(a, b)
    carry_dtype = jnp.promote_types(dtype, jnp.float32)
    h0 = jnp.zeros(b.shape[1:], carry_dtype) if h0 is None else h0.astype(carry_dtype)
    a = a.astype(dtype).reshape(a.shape if a.ndim == 3 else (1, 1, -1))  # [1, 1, N] when constant
    b = b.astype(dtype)
    if backend == "reference" or b.size == 0:
        return _reference(a, b, h0, reset, reverse)
    return _scan(a, b, h0, reset, reverse, backend)


def _check_arguments(a: Array, b: Array, h0: Array | None, reset: Array | None) -> None:
    check(b.ndim == 3, f"linear_scan: b has shape {b.shape}, expected [T, B, N]")
    check(
        a.shape in (b.shape, b.shape[2:]),
        f"linear_scan: a has shape {a.shape}, expected {b.shape} like b or {b.shape[2:]} (constant in time)",
    )
    for name, x in (("a", a), ("b", b), ("h0", h0)):
        check(
            x is None or jnp.issubdtype(x.dtype, jnp.inexact),
            f"linear_scan: {name} has dtype {getattr(x, 'dtype', None)}, expected a real or complex float",
        )
    if h0 is not None:
        check(h0.shape == b.shape[1:], f"linear_scan: h0 has shape {h0.shape}, expected {b.shape[1:]}")
        check(
            jnp.iscomplexobj(a) or jnp.iscomplexobj(b) or not jnp.iscomplexobj(h0),
            "linear_scan: h0 is complex, expected real like a and b",
        )
    if reset is not None:
        check(
            reset.shape == b.shape[:2] and reset.dtype == jnp.bool_,
            f"linear_scan: reset is {reset.dtype}{list(reset.shape)}, expected bool{list(b.shape[:2])}",
        )


def _keep(reset_t: Array | None, x: Array) -> Array:
    """`x` [B, N], zero in the rows that reset."""
    return x if reset_t is None else jnp.where(reset_t[:, None], 0, x)


def _reference(a: Array, b: Array, h0: Array, reset: Array | None, reverse: bool) -> tuple[Array, Array]:
    """The specification: one step at a time, differentiated by JAX."""

    def step(h, inputs):
        a_t, b_t, reset_t = inputs
        h = _keep(reset_t, a_t * _keep(reset_t, h)) + b_t
        return h, h.astype(b.dtype)

    h_last, h = lax.scan(step, h0, (jnp.broadcast_to(a, b.shape), b, reset), reverse=reverse)
    return h, h_last


# The fast paths share a backward pass, which is the same recurrence on the adjoint, in the other direction:
#     lambda_t = g_t + a_{t+1} lambda_{t+1},   db_t = lambda_t,   da_t = lambda_t h_{t-1},   dh0 = a_0 lambda_0,
# where a reset at t+1 cuts what flows from t+1 back to t. (JAX's cotangents of complex products carry no conjugate.)


def _by_backend(a: Array, b: Array, h0: Array, reset: Array | None, reverse: bool, backend: str) -> tuple[Array, Array]:
    axes = "TBN TBN BN TB -> TBN BN"
    return _run(_sequential, _triton, _associative, reverse, backend, axes=axes)(a, b, h0, reset)


_scan: Any = jax.custom_vjp(_by_backend, nondiff_argnums=(4, 5))


def _scan_forward(a, b, h0, reset, reverse, backend):
    h, h_last = _scan(a, b, h0, reset, reverse, backend)
    return (h, h_last), (a, h, h0, reset)


def _scan_backward(reverse, backend, residuals, cotangents):
    a, h, h0, reset = residuals
    g, g_last = cotangents
    paths = _sequential_adjoint, _triton_adjoint, _associative_adjoint
    cpu, cuda, other = (_typed(path) for path in paths)
    axes = "TBN TBN BN TB TBN BN -> TBN TBN BN"
    return (*_run(cpu, cuda, other, reverse, backend, axes=axes)(a, h, h0, reset, g, g_last), None)


_scan.defvjp(_scan_forward, _scan_backward)


def _run(cpu: Callable, cuda: Callable, other: Callable, reverse: bool, backend: str, *, axes: str) -> Callable:
    cpu, cuda, other = (partial(path, reverse=reverse) for path in (cpu, cuda, other))
    return by_platform("linear_scan", backend, cpu=cpu, cuda=cuda, other=other, axes=axes)


def _typed(adjoint: Callable) -> Callable:
    """`adjoint` with gradients in the types of what they are gradients of."""

    def typed(a, h, h0, reset, g, g_last, **options):
        da, db, dh0 = adjoint(a, h, h0, reset, g, g_last, **options)
        return da.astype(a.dtype), db.astype(g.dtype), dh0

    return typed


def _is_constant(a: Array, b: Array) -> bool:
    return a.shape[:2] != b.shape[:2]


def _before(h: Array, h0: Array, reverse: bool) -> Array:
    """The state before each step, in h's dtype."""
    h0 = h0[None].astype(h.dtype)
    return jnp.concatenate([h, h0])[1:] if reverse else jnp.concatenate([h0, h])[:-1]


def _summed(da: Array, a: Array, g: Array) -> Array:
    return da.sum((0, 1), keepdims=True) if _is_constant(a, g) else da


def _triton(a, b, h0, reset, *, reverse, interpret):
    from memrl.kernels import linear_scan_triton  # imports Pallas, 0.3 s

    h, h_last = linear_scan_triton.forward(
        planes(a), planes(b), planes(h0), reset, reverse=reverse, interpret=interpret
    )
    return join(h), join(h_last)


def _triton_adjoint(a, h, h0, reset, g, g_last, *, reverse, interpret):
    from memrl.kernels import linear_scan_triton

    gradients = linear_scan_triton.backward(
        planes(a), planes(h), planes(h0), reset, planes(g), planes(g_last), reverse=reverse, interpret=interpret
    )
    da, adjoint, dh0 = (join(x) for x in gradients)
    return da.sum(0)[None, None] if _is_constant(a, g) else da, adjoint, dh0


def _sequential(a: Array, b: Array, h0: Array, reset: Array | None, *, reverse: bool) -> tuple[Array, Array]:
    """On a CPU one pass over memory beats every parallel scan."""
    constant = _is_constant(a, b)

    def step(h, inputs):
        a_t, b_t, reset_t = inputs
        h = _keep(reset_t, (a[0] if constant else a_t).astype(h.dtype) * h) + b_t
        return h, h.astype(b.dtype)

    h_last, h = lax.scan(step, h0, (None if constant else a, b, reset), reverse=reverse)
    return h, h_last


def _sequential_adjoint(a, h, h0, reset, g, g_last, *, reverse):
    """The scan runs on one core and waits for memory, so that da, which needs no order, is left to all of them."""
    constant = _is_constant(a, g)

    def step(flow, inputs):
        # flow is what step t receives from its future: a_{t+1} lambda_{t+1}, already cut by resets.
        g_t, a_t, reset_t = inputs
        adjoint = g_t + flow
        return _keep(reset_t, (a[0] if constant else a_t).astype(adjoint.dtype) * adjoint), adjoint

    dh0, adjoint = lax.scan(step, g_last, (g, None if constant else a, reset), reverse=not reverse)
    da = adjoint * _before(h, h0, reverse)
    da = da if reset is None else jnp.where(reset[..., None], 0, da)
    return _summed(da, a, g), adjoint, dh0


def _associative(a: Array, b: Array, h0: Array, reset: Array | None, *, reverse: bool) -> tuple[Array, Array]:
    """The recurrence as an associative scan of log T depth, for devices with lanes to spare."""
    if reverse:
        cut = None if reset is None else jnp.flip(reset, 0)
        h, h_last = _associative(jnp.flip(a, 0), jnp.flip(b, 0), h0, cut, reverse=False)
        return jnp.flip(h, 0), h_last

    def combine(left, right):
        a_l, b_l, cut_l = left
        a_r, b_r, cut_r = right
        return a_l * a_r, jnp.where(cut_r, 0, a_r * b_l) + b_r, cut_l | cut_r

    T, B, _ = b.shape
    # h0 enters as an input of its own, one step before the first.
    decay = jnp.concatenate([jnp.ones_like(h0)[None], jnp.broadcast_to(a, b.shape).astype(h0.dtype)])
    inputs = jnp.concatenate([h0[None], b.astype(h0.dtype)])
    cut = jnp.zeros((T, B), bool) if reset is None else reset
    cut = jnp.concatenate([jnp.zeros((1, B), bool), cut])
    _, h, _ = lax.associative_scan(combine, (decay, inputs, cut[..., None]))
    return h[1:].astype(b.dtype), h[-1]


def _associative_adjoint(a, h, h0, reset, g, g_last, *, reverse):
    if reverse:
        a, h, g = jnp.flip(a, 0), jnp.flip(h, 0), jnp.flip(g, 0)
        reset = None if reset is None else jnp.flip(reset, 0)
        da, adjoint, dh0 = _associative_adjoint(a, h, h0, reset, g, g_last, reverse=False)
        return jnp.flip(da, 0), jnp.flip(adjoint, 0), dh0
    cut = jnp.zeros(g.shape[:2], bool) if reset is None else reset
    g = g.astype(g_last.dtype)  # as wide as the carry, like the sequential path
    # One step later in time: g_last stands where a future would, and step t receives a_{t+1} lambda_{t+1} unless cut.
    decay = jnp.broadcast_to(a, g.shape).astype(g.dtype)
    later = jnp.concatenate([decay, jnp.ones_like(decay[:1])])[1:]
    later_cut = jnp.concatenate([cut, jnp.zeros_like(cut[:1])])[1:]
    adjoint, _ = _associative(later, g, g_last, later_cut, reverse=True)
    da = jnp.where(cut[..., None], 0, adjoint * _before(h, h0, reverse=False))
    flow = jnp.where(cut[0, :, None], 0, decay[0] * adjoint[0])
    return _summed(da, a, g), adjoint, flow
