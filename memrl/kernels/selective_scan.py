"""The selective scan of Mamba (Gu & Dao 2023): a diagonal state per channel, whose decay and input depend on the step.

A state of D x N numbers per environment is too much to keep for every step. The XLA path keeps it where each chunk of
steps begins; the backward pass computes the chunk's states again, which costs less than reading them would. D, the
widest axis, lies last inside: all else is then arithmetic on long vectors.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from memrl.errors import check
from memrl.kernels.backends import by_platform, resolve_backend
from memrl.kernels.chunks import check_float, read, step_by_step
from memrl.types import Array

CHUNK = 8  # steps whose states are in memory at once; on 2 CPU cores the fastest of 4 to 64


def selective_scan(
    x: Array,
    dt: Array,
    A: Array,
    B: Array,
    C: Array,
    D: Array | None = None,
    h0: Array | None = None,
    reset: Array | None = None,
    *,
    backend: str = "auto",
) -> tuple[Array, Array]:
    """Computes h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t and y_t = C_t . h_t + D x_t in each of d channels.

    Args:
        x: inputs, [T, b, d] for b environments.
        dt: step sizes, at least 0, [T, b, d].
        A: continuous-time decays, below 0, [d, N].
        B, C: input and output vectors, [T, b, N].
        D: skip weights, [d]; none by default.
        h0: state before the first step, [b, d, N]; zeros by default.
        reset: [T, b] bool; true where the state before step t is zero.
        backend: "auto" (NVIDIA GPU: "pallas", others: "xla"), "reference" (a plain `lax.scan`, the specification),
            "xla", "pallas" (GPU only) or "interpret" (the same kernel, for tests).

    Returns:
        y [T, b, d] in x's dtype and h_last [b, d, N], float32.

    Raises:
        MemrlError: for a wrong rank, sizes that do not match, or integer inputs.
    """
    backend = resolve_backend("selective_scan", backend, ("auto", "reference", "xla", "pallas", "interpret"))
    _check_arguments(x, dt, A, B, C, D, h0, reset)
    b, d = x.shape[1:]
    A = A.astype(jnp.float32)
    D = None if D is None else D.astype(jnp.float32)
    h0 = jnp.zeros((b, d, A.shape[1])) if h0 is None else h0.astype(jnp.float32)
    # The state is [b, N, d] inside.
    arguments = x, dt, A.T, B, C, D, jnp.swapaxes(h0, 1, 2), reset
    if backend == "reference" or x.size == 0 or A.size == 0:
        y, h_last = _reference(*arguments)
    else:
        y, h_last = _scan(*arguments, backend)
    return y, jnp.swapaxes(h_last, 1, 2)


def _check_arguments(x, dt, A, B, C, D, h0, reset) -> None:
    name = "selective_scan"
    check(x.ndim == 3, f"{name}: x has shape {x.shape}, expected [T, b, d]")
    T, b, d = x.shape
    check(A.ndim == 2 and A.shape[0] == d, f"{name}: A has shape {A.shape}, expected [{d}, N]")
    N = A.shape[1]
    expected = {"dt": (dt, x.shape), "B": (B, (T, b, N)), "C": (C, (T, b, N)), "D": (D, (d,)), "h0": (h0, (b, d, N))}
    for argument, (value, shape) in expected.items():
        check(
            value is None or value.shape == shape,
            f"{name}: {argument} has shape {getattr(value, 'shape', None)}, expected {shape}",
        )
    for argument, value in {"x": x, "dt": dt, "A": A, "B": B, "C": C, "D": D, "h0": h0}.items():
        check_float(name, argument, value)
    check(
        reset is None or (reset.shape == (T, b) and reset.dtype == jnp.bool_),
        f"{name}: reset is {getattr(reset, 'dtype', None)}{list(getattr(reset, 'shape', ()))}, expected bool{[T, b]}",
    )


def _reference(x, dt, A, B, C, D, h0, reset):
    """The specification: one step at a time, differentiated by JAX."""

    def step(h, inputs):
        x_t, dt_t, B_t, C_t, reset_t = inputs
        decayed = jnp.exp(dt_t[:, None, :] * A[None]) * _keep(reset_t, h)
        h = _keep(reset_t, decayed) + B_t[..., None] * (dt_t * x_t)[:, None, :]
        return h, read(h, C_t)

    h_last, y = step_by_step(step, h0, (*_float32(x, dt, B, C), reset))
    return _skipped(y, D, x), h_last


def _skipped(y: Array, D: Array | None, x: Array) -> Array:
    """y + D x in x's dtype."""
    y = y if D is None else y + D[None, None] * x.astype(jnp.float32)
    return y.astype(x.dtype)


def _keep(reset_t: Array | None, h: Array) -> Array:
    """`h` [..., b, N, d], zero in the rows that reset, [..., b]."""
    return h if reset_t is None else jnp.where(reset_t[..., None, None], 0, h)


def _float32(*arrays: Array) -> tuple[Array, ...]:
    return tuple(z.astype(jnp.float32) for z in arrays)


# Both fast paths keep the states before each chunk, and in the backward pass go from there.


def _values(x, dt, A, B, C, D, h0, reset, backend):
    axes = "TBD TBD ND TBN TBN D BND TB -> TBD BND"
    run = by_platform("selective_scan", backend, cpu=_xla, cuda=_triton, axes=axes)
    return run(x, dt, A, B, C, D, h0, reset)


_scan: Any = jax.custom_vjp(_values, nondiff_argnums=(8,))


def _scan_forward(x, dt, A, B, C, D, h0, reset, backend):
    axes = "TBD TBD ND TBN TBN D BND TB -> TBD BND MBND"
    run = by_platform("selective_scan", backend, cpu=_xla_forward, cuda=_triton_forward, axes=axes)
    y, h_last, starts = run(x, dt, A, B, C, D, h0, reset)
    return (y, h_last), (x, dt, A, B, C, D, reset, starts)


def _scan_backward(backend, residuals, cotangents):
    axes = "TBD TBD ND TBN TBN D TB MBND TBD BND -> TBD TBD ND TBN TBN D BND"
    run = by_platform("selective_scan", backend, cpu=_xla_backward, cuda=_triton_backward, axes=axes)
    return *run(*residuals, *cotangents), None


_scan.defvjp(_scan_forward, _scan_backward)


def _triton(x, dt, A, B, C, D, h0, reset, *, interpret):
    from memrl.kernels import selective_scan_triton  # imports Pallas, 0.3 s

    y, h_last, _ = selective_scan_triton.forward(
        x, dt, A, B, C, D, h0, reset, chunk=CHUNK, keep_starts=False, interpret=interpret
    )
    return y, h_last


def _triton_forward(x, dt, A, B, C, D, h0, reset, *, interpret):
    from memrl.kernels import selective_scan_triton

    return selective_scan_triton.forward(
        x, dt, A, B, C, D, h0, reset, chunk=CHUNK, keep_starts=True, interpret=interpret
    )


def _triton_backward(x, dt, A, B, C, D, reset, starts, g, g_last, *, interpret):
    from memrl.kernels import selective_scan_triton

    return selective_scan_triton.backward(x, dt, A, B, C, D, reset, starts, g, g_last, chunk=CHUNK, interpret=interpret)


def _xla(*arguments):
    return _xla_forward(*arguments)[:2]


def _xla_forward(x, dt, A, B, C, D, h0, reset):
    def chunk(h, inputs):
        x_c, dt_c, B_c, C_c, reset_c = inputs
        states = _states(h, _decays(dt_c, A), x_c, dt_c, B_c, reset_c)
        return states[-1], (read(states, C_c), h)

    h_last, (y, starts) = lax.scan(chunk, h0, _chunks(x, dt, B, C, reset))
    return _skipped(_from_chunks(y, x.shape[0]), D, x), h_last, starts


def _xla_backward(x, dt, A, B, C, D, reset, starts, g, g_last):
    def chunk(carry, inputs):
        flow, dA = carry  # flow: the gradient of the chunk's last state from what comes after
        (x, dt, B, C, reset), start, g_c = inputs
        decay = _decays(dt, A)
        states = _states(start, decay, x, dt, B, reset)
        decayed = _keep(reset, decay * jnp.concatenate([start[None], states[:-1]]))

        def step(flow, inputs):
            g_t, C_t, decay_t, reset_t = inputs
            adjoint = flow + C_t[..., None] * g_t[:, None, :]
            return _keep(reset_t, decay_t * adjoint), adjoint

        flow, adjoint = lax.scan(step, flow, (g_c, C, decay, reset), reverse=True)
        through_decay = adjoint * decayed  # what dt A changes
        into = read(adjoint, B)  # the gradient of dt x
        dA = dA + jnp.sum(through_decay * dt[..., None, :], (0, 1))
        ddt = jnp.sum(through_decay * A[None, None], 2) + into * x
        dB = jnp.einsum("tbnd,tbd->tbn", adjoint, dt * x)
        dC = jnp.einsum("tbnd,tbd->tbn", states, g_c)
        return (flow, dA), (into * dt, ddt, dB, dC)

    (g,) = _float32(g)
    carry = g_last, jnp.zeros_like(A)
    chunks = _chunks(x, dt, B, C, reset), starts, _to_chunks(g)
    (dh0, dA), gradients = lax.scan(chunk, carry, chunks, reverse=True)
    dx, ddt, dB, dC = (_from_chunks(z, x.shape[0]) for z in gradients)
    dD = None
    if D is not None:
        dx = dx + D[None, None] * g
        dD = jnp.sum(g * x.astype(jnp.float32), (0, 1))
    dx, ddt, dB, dC = (z.astype(like.dtype) for z, like in ((dx, x), (ddt, dt), (dB, B), (dC, C)))
    return dx, ddt, dA, dB, dC, dD, dh0


def _chunks(x, dt, B, C, reset):
    return *(_to_chunks(z) for z in _float32(x, dt, B, C)), None if reset is None else _to_chunks(reset)


def _decays(dt: Array, A: Array) -> Array:
    """[C, b, N, d]."""
    return jnp.exp(dt[..., None, :] * A[None, None])


def _states(h, decay, x, dt, B, reset):
    """The chunk's states, [C, b, N, d]."""

    def step(h, inputs):
        decay_t, x_t, B_t, reset_t = inputs
        h = _keep(reset_t, decay_t * h) + B_t[..., None] * x_t[:, None, :]
        return h, h

    return lax.scan(step, h, (decay, dt * x, B, reset))[1]


def _to_chunks(z: Array) -> Array:
    """[T, ...] as [M, C, ...]; after the end nothing decays and nothing enters."""
    T = z.shape[0]
    size = min(CHUNK, T)
    z = jnp.pad(z, ((0, -T % size), *((0, 0) for _ in z.shape[1:])))
    return z.reshape(-1, size, *z.shape[1:])


def _from_chunks(z: Array, T: int) -> Array:
    return z.reshape(-1, *z.shape[2:])[:T]
