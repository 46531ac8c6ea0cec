"""The resettable linear recurrence h_t = a_t * h_{t-1} + b_t, the scan under every diagonal state-space core.

A reset cuts the recurrence: where `reset[t]` is true, h_t = b_t, whatever h_{t-1} was. It is a selection and never a
product with zero, so NaN and inf behind a reset reach neither values nor gradients.
"""

from collections.abc import Callable, Sequence
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
            specification), "xla", "pallas" (GPU only), "mosaic" (another kernel, GPUs from Hopper on only; not measured
            yet) or "interpret" (the kernel of "pallas", for tests).

    Returns:
        h [T, B, N] in the common dtype of a and b, and h_last [B, N], the state after the last step in scan order, in
        the dtype of the carry: float32 (complex64) or wider.

    Raises:
        MemrlError: for a wrong rank, sizes that do not match, or integer inputs.
    """
    backend = resolve_backend("linear_scan", backend, ("auto", "reference", "xla", "pallas", "mosaic", "interpret"))
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
    paths = _sequential, _triton, _associative, _mosaic
    return _run(paths, "TBN TBN BN TB -> TBN BN", reverse, backend)(a, b, h0, reset)


_scan: Any = jax.custom_vjp(_by_backend, nondiff_argnums=(4, 5))


def _scan_forward(a, b, h0, reset, reverse, backend):
    h, h_last = _scan(a, b, h0, reset, reverse, backend)
    return (h, h_last), (a, h, h0, reset)


def _scan_backward(reverse, backend, residuals, cotangents):
    a, h, h0, reset = residuals
    g, g_last = cotangents
    paths = [_typed(path) for path in (_sequential_adjoint, _triton_adjoint, _associative_adjoint, _mosaic_adjoint)]
    axes = "TBN TBN BN TB TBN BN -> TBN TBN BN"
    return (*_run(paths, axes, reverse, backend)(a, h, h0, reset, g, g_last), None)


_scan.defvjp(_scan_forward, _scan_backward)


def _run(paths: Sequence[Callable], axes: str, reverse: bool, backend: str) -> Callable:
    cpu, cuda, other, mosaic = (partial(path, reverse=reverse) for path in paths)
    return by_platform("linear_scan", backend, axes=axes, cpu=cpu, cuda=cuda, other=other, mosaic=mosaic)


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


def _triton(*arguments, **options):
    from memrl.kernels.linear_scan_triton import forward  # imports Pallas, 0.3 s

    return _on_planes(forward, *arguments, **options)


def _triton_adjoint(*arguments, **options):
    from memrl.kernels.linear_scan_triton import backward

    return _adjoint_on_planes(backward, *arguments, **options)


def _mosaic(*arguments, **options):
    from memrl.kernels.linear_scan_mosaic import forward

    return _on_planes(forward, *arguments, **options)


def _mosaic_adjoint(*arguments, **options):
    from memrl.kernels.linear_scan_mosaic import backward

    return _adjoint_on_planes(backward, *arguments, **options)


def _on_planes(forward, a, b, h0, reset, **options):
    h, h_last = forward(planes(a), planes(b), planes(h0), reset, **options)
    return join(h), join(h_last)


def _adjoint_on_planes(backward, a, h, h0, reset, g, g_last, **options):
    gradients = backward(planes(a), planes(h), planes(h0), reset, planes(g), planes(g_last), **options)
    da, adjoint, dh0 = (join(x) for x in gradients)
    return da.sum(0)[None, None] if _is_constant(a, g) else da, adjoint, dh0


def _sequential(a: Array, b: Array, h0: Array, reset: Array | None, *, reverse: bool) -> tuple[Array, Array]:
    """On a CPU one pass over memory beats every parallel scan."""
    steps = range(len(b))
    h_last, h = _overwrite(b, h0, steps[::-1] if reverse else steps, _flow(a, reset, h0.dtype))
    return h.astype(b.dtype), h_last


def _sequential_adjoint(a, h, h0, reset, g, g_last, *, reverse):
    """The scan runs on one core, so that da, which needs no order, is left to all of them."""
    steps, later = range(len(g)), -1 if reverse else 1
    steps = steps if reverse else steps[::-1]
    flow = _flow(a, reset, g_last.dtype)
    last = g[steps[0]] + g_last
    g = lax.dynamic_update_index_in_dim(g.astype(last.dtype), last, steps[0], 0)
    first, adjoint = _overwrite(g, last, steps[1:], lambda t, adjoint: flow(t + later, adjoint))
    da = adjoint * _before(h, h0, reverse)
    da = da if reset is None else jnp.where(reset[..., None], 0, da)
    return _summed(da, a, g), adjoint, flow(steps[-1], first)


def _flow(a: Array, reset: Array | None, dtype: Any) -> Callable[[Any, Array], Array]:
    """The function of t and h [B, N] that is a_t h, or 0 in the rows that reset before step t."""

    def flow(t, h):
        a_t = _at(a, t if len(a) > 1 else 0).astype(dtype)
        return _keep(None if reset is None else _at(reset, t), a_t * h)

    return flow


def _overwrite(b: Array, h: Array, steps: range, flow: Callable) -> tuple[Array, Array]:
    """h <- flow(t, h) + b_t for t in `steps`, each state in the place of its b_t; the last state and all of them.

    The place of b, which is seldom needed afterwards (where it is, XLA copies it first), costs nothing: XLA fills a new
    array with zeros before a loop writes it. What is written is what is carried: where one had to be computed from the
    other, or from b_t again, XLA would copy all of b at every step, as it does to update an array of bfloat16.
    """

    def step(i, carry):
        h, written = carry
        t = steps.start + i * steps.step
        h = flow(t, h) + _at(written, t)
        return h, lax.dynamic_update_index_in_dim(written, h, t, 0)

    return lax.fori_loop(0, len(steps), step, (h, b.astype(h.dtype)))


def _at(x: Array, t: Any) -> Array:
    return lax.dynamic_index_in_dim(x, t, 0, keepdims=False)


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
