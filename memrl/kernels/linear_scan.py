"""The resettable linear recurrence h_t = a_t * h_{t-1} + b_t, the scan under every diagonal state-space core.

A reset cuts the recurrence: where `reset[t]` is true, h_t = b_t, whatever h_{t-1} was. It is a selection and never a
product with zero, so NaN and inf behind a reset reach neither values nor gradients.
"""

import jax
import jax.numpy as jnp
from jax import lax

from memrl.errors import check
from memrl.kernels.backends import resolve_backend
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
        backend: "auto", "reference" (a plain `lax.scan`, the specification) or "xla".

    Returns:
        h [T, B, N] in the common dtype of a and b, and h_last [B, N], the state after the last step in scan order, in
        the dtype of the carry: float32 (complex64) or wider.

    Raises:
        MemrlError: for a wrong rank, sizes that do not match, or integer inputs.
    """
    backend = resolve_backend("linear_scan", backend, ("reference", "xla"))
    _check_arguments(a, b, h0, reset)
    dtype = jnp.result_type(a, b)
    carry_dtype = jnp.promote_types(dtype, jnp.float32)
    h0 = jnp.zeros(b.shape[1:], carry_dtype) if h0 is None else h0.astype(carry_dtype)
    a = a.astype(dtype).reshape(a.shape if a.ndim == 3 else (1, 1, -1))  # [1, 1, N] when constant
    b = b.astype(dtype)
    if reverse:  # one direction is implemented; the other is its mirror image
        a, b = jnp.flip(a, 0), jnp.flip(b, 0)
        reset = None if reset is None else jnp.flip(reset, 0)
    scan = {"reference": _reference, "xla": _xla}[backend]
    h, h_last = scan(a, b, h0, reset)
    return (jnp.flip(h, 0) if reverse else h), h_last


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


def _reference(a: Array, b: Array, h0: Array, reset: Array | None) -> tuple[Array, Array]:
    """The specification: one step at a time, differentiated by JAX."""

    def step(h, inputs):
        a_t, b_t, reset_t = inputs
        h = _keep(reset_t, a_t * _keep(reset_t, h)) + b_t
        return h, h.astype(b.dtype)

    h_last, h = lax.scan(step, h0, (jnp.broadcast_to(a, b.shape), b, reset))
    return h, h_last


# The XLA path. Complex numbers travel as two real planes, which the CPU's vector units handle several times faster than
# XLA's complex arithmetic. Its backward pass is the same recurrence on the adjoint, in the other direction:
#     lambda_t = g_t + a_{t+1} lambda_{t+1},   db_t = lambda_t,   da_t = lambda_t h_{t-1},   dh0 = a_0 lambda_0,
# where a reset at t+1 cuts what flows from t+1 back to t. (JAX's cotangents of complex products carry no conjugate.)


@jax.custom_vjp
def _xla(a: Array, b: Array, h0: Array, reset: Array | None) -> tuple[Array, Array]:
    return lax.platform_dependent(a, b, h0, reset, cpu=_sequential, default=_associative)


def _xla_forward(a, b, h0, reset):
    h, h_last = _xla(a, b, h0, reset)
    return (h, h_last), (a, h, h0, reset)


def _xla_backward(residuals, cotangents):
    a, h, h0, reset = residuals
    g, g_last = cotangents
    h_tm1 = jnp.concatenate([h0[None].astype(h.dtype), h])[:-1]
    adjoint, da, dh0 = lax.platform_dependent(
        a, h_tm1, reset, g, g_last, cpu=_sequential_adjoint, default=_associative_adjoint
    )
    da = da.sum((0, 1), keepdims=True) if _is_constant(a, g) else da
    return da.astype(a.dtype), adjoint.astype(g.dtype), dh0, None


_xla.defvjp(_xla_forward, _xla_backward)


def _is_constant(a: Array, b: Array) -> bool:
    return a.shape[:2] != b.shape[:2]


def _planes(x: Array) -> tuple[Array, ...]:
    """Real and imaginary part, or the array alone when it is real."""
    return (lax.real(x), lax.imag(x)) if jnp.iscomplexobj(x) else (x,)


def _join(planes: tuple[Array, ...]) -> Array:
    return lax.complex(*planes) if len(planes) == 2 else planes[0]


def _times(x: tuple[Array, ...], y: tuple[Array, ...]) -> tuple[Array, ...]:
    if len(x) == 1:
        return (x[0] * y[0],)
    return x[0] * y[0] - x[1] * y[1], x[0] * y[1] + x[1] * y[0]


def _add(x: tuple[Array, ...], y: tuple[Array, ...]) -> tuple[Array, ...]:
    return tuple(p + q for p, q in zip(x, y, strict=True))


def _sequential(a: Array, b: Array, h0: Array, reset: Array | None) -> tuple[Array, Array]:
    """On a CPU one pass over memory beats every parallel scan."""
    decay, constant = _planes(a), _is_constant(a, b)

    def step(h, inputs):
        a_t, b_t, reset_t = inputs
        h = _times(tuple(p[0] for p in decay) if constant else a_t, h)
        h = _add(tuple(_keep(reset_t, p) for p in h), b_t)
        return h, tuple(p.astype(b_p.dtype) for p, b_p in zip(h, b_t, strict=True))

    h_last, h = lax.scan(step, _planes(h0), (None if constant else decay, _planes(b), reset))
    return _join(h), _join(h_last)


def _sequential_adjoint(a, h_tm1, reset, g, g_last):
    decay, constant = _planes(a), _is_constant(a, g)

    def step(carry, inputs):
        # carry is what flows into step t from its future: a_{t+1} lambda_{t+1}, already cut by resets.
        g_t, a_t, h_tm1, reset_t = inputs
        adjoint = _add(g_t, carry)
        da = tuple(_keep(reset_t, p) for p in _times(adjoint, h_tm1))
        carry = _times(tuple(p[0] for p in decay) if constant else a_t, adjoint)
        return tuple(_keep(reset_t, p) for p in carry), (adjoint, da)

    xs = (_planes(g), None if constant else decay, _planes(h_tm1), reset)
    dh0, (adjoint, da) = lax.scan(step, _planes(g_last), xs, reverse=True)
    return _join(adjoint), _join(da), _join(dh0)


def _associative(a: Array, b: Array, h0: Array, reset: Array | None) -> tuple[Array, Array]:
    """The recurrence as an associative scan of log T depth, for devices with lanes to spare."""

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


def _associative_adjoint(a, h_tm1, reset, g, g_last):
    cut = jnp.zeros(g.shape[:2], bool) if reset is None else reset
    g = g.astype(g_last.dtype)  # as wide as the carry, like the sequential path
    # One step later in time: g_last stands where a future would, and step t receives a_{t+1} lambda_{t+1} unless cut.
    decay = jnp.broadcast_to(a, g.shape).astype(g.dtype)
    later = jnp.concatenate([decay, jnp.ones_like(decay[:1])])[1:]
    later_cut = jnp.concatenate([cut, jnp.zeros_like(cut[:1])])[1:]
    adjoint, _ = _associative(jnp.flip(later, 0), jnp.flip(g, 0), g_last, jnp.flip(later_cut, 0))
    adjoint = jnp.flip(adjoint, 0)
    da = jnp.where(cut[..., None], 0, adjoint * h_tm1)
    flow = jnp.concatenate([jnp.where(cut[..., None], 0, decay * adjoint), g_last[None]])
    return adjoint, da, flow[0]
