"""The recurrent half of a GRU over a whole sequence: everything that must be sequential, and nothing else.

The input projection of all steps is one product before the scan, so it arrives here as `gates`. In the backward pass
the scan returns the gradient of each step's pre-activations, and the recurrent weight's gradient is one product after
it: on 2 CPU cores this halves the time of the scan that automatic differentiation builds.

`backend="newton"` computes all steps at once, again and again until they agree: see `memrl.kernels.newton`. On a CPU
it does not pay (`memrl bench kernels`); on a GPU it has not been timed.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from memrl.errors import check
from memrl.kernels.backends import resolve_backend
from memrl.kernels.newton import DEFAULT_NEWTON, NewtonOptions, solve
from memrl.types import Array


def gru_scan(
    gates: Array,
    kernel: Array,
    h0: Array,
    reset: Array | None = None,
    *,
    backend: str = "auto",
    newton: NewtonOptions = DEFAULT_NEWTON,
) -> tuple[Array, Array]:
    """Runs a GRU (Cho et al. 2014, in the form of cuDNN and flax) along the first axis.

        r, z = sigmoid(gates_r + h U_r), sigmoid(gates_z + h U_z)
        n = tanh(gates_n + r * (h U_n)),   h' = (1 - z) n + z h

    Args:
        gates: the projected inputs with their biases, [T, B, 3N], in the order r, z, n.
        kernel: U = [U_r, U_z, U_n], [N, 3N].
        h0: state before the first step, [B, N] float32.
        reset: [T, B] bool; true where the state before step t is zero.
        backend: "auto", "reference" (differentiated by JAX), "xla" (its own backward pass) or "newton" (parallel in
            time, never chosen by "auto").
        newton: when "newton" stops.

    Returns:
        h [T, B, N] and the last state [B, N], both in h0's dtype.
    """
    backend = resolve_backend("gru_scan", backend, ("reference", "xla", "newton"))
    check_cell_arguments("gru_scan", 3, gates, kernel, h0, reset)
    if backend == "newton":
        reset = jnp.zeros(gates.shape[:2], bool) if reset is None else reset
        return _newton(gates, kernel, h0, reset, newton)
    return {"reference": _reference, "xla": _xla}[backend](gates, kernel, h0, reset)


def check_cell_arguments(name, num_gates, gates, kernel, h0, reset) -> None:
    """Shapes of a recurrent cell with `num_gates` gates: one error line that names the argument."""
    check(h0.ndim == 2, f"{name}: h0 has shape {h0.shape}, expected [B, N]")
    B, N = h0.shape
    check(
        gates.ndim == 3 and gates.shape[1:] == (B, num_gates * N),
        f"{name}: gates has shape {gates.shape}, expected [T, {B}, {num_gates * N}]",
    )
    check(
        kernel.shape == (N, num_gates * N),
        f"{name}: kernel has shape {kernel.shape}, expected {(N, num_gates * N)}",
    )
    check(
        reset is None or (reset.shape == gates.shape[:2] and reset.dtype == jnp.bool_),
        f"{name}: reset is {getattr(reset, 'dtype', None)}{getattr(reset, 'shape', None)}, "
        f"expected bool{gates.shape[:2]}",
    )


def keep(reset_t: Array | None, h: Array) -> Array:
    """`h` [..., B, N], zero in the rows that reset, [..., B]."""
    return h if reset_t is None else jnp.where(reset_t[..., None], 0, h)


def _cell(gates_t: Array, kernel: Array, h: Array) -> tuple[Array, Array, Array, Array, Array]:
    N = h.shape[-1]
    gates_t = gates_t.astype(h.dtype)
    recurrent = jnp.dot(h.astype(kernel.dtype), kernel, preferred_element_type=h.dtype)
    rz = jax.nn.sigmoid(gates_t[..., : 2 * N] + recurrent[..., : 2 * N])
    r, z, u = rz[..., :N], rz[..., N:], recurrent[..., 2 * N :]
    n = jnp.tanh(gates_t[..., 2 * N :] + r * u)
    return (1 - z) * n + z * h, r, z, n, u


def _reference(gates, kernel, h0, reset):
    def step(h, inputs):
        gates_t, reset_t = inputs
        h, *_ = _cell(gates_t, kernel, keep(reset_t, h))
        return h, h

    h_last, h = lax.scan(step, h0, (gates, reset))
    return h, h_last


@jax.custom_vjp
def _xla(gates, kernel, h0, reset):
    return _reference(gates, kernel, h0, reset)


def _xla_forward(gates, kernel, h0, reset):
    def step(h, inputs):
        gates_t, reset_t = inputs
        h_tm1 = keep(reset_t, h)
        h, r, z, n, u = _cell(gates_t, kernel, h_tm1)
        return h, (h, h_tm1, r, z, n, u)

    h_last, (h, *saved) = lax.scan(step, h0, (gates, reset))
    return (h, h_last), (gates, kernel, reset, saved)


def _xla_backward(residuals, cotangents):
    gates, kernel, reset, saved = residuals
    g, g_last = cotangents

    def step(carry, inputs):
        g_t, reset_t, saved_t = inputs
        carry, through_kernel, dn = _cell_backward(g_t + carry, kernel, *saved_t)
        return keep(reset_t, carry), (through_kernel, dn)

    dh0, (through_kernel, dn) = lax.scan(step, g_last, (g, reset, saved), reverse=True)
    return *_weight_gradients(gates, kernel, saved[0], through_kernel, dn), dh0, None


_xla.defvjp(_xla_forward, _xla_backward)


def _cell_backward(dh, kernel, h_tm1, r, z, n, u):
    """The gradient of h_{t-1}, and those of what was added to the gates: through the kernel, and n's."""
    dn = dh * (1 - z) * (1 - n * n)
    dz = dh * (h_tm1 - n) * z * (1 - z)
    dr = dn * u * r * (1 - r)
    through_kernel = jnp.concatenate([dr, dz, dn * r], -1)
    dh_tm1 = dh * z + jnp.dot(through_kernel.astype(kernel.dtype), kernel.T, preferred_element_type=dh.dtype)
    return dh_tm1, through_kernel, dn


def _weight_gradients(gates, kernel, h_tm1, through_kernel, dn):
    dkernel = jnp.einsum("tbn,tbm->nm", h_tm1, through_kernel).astype(kernel.dtype)
    dgates = jnp.concatenate([through_kernel[..., : 2 * dn.shape[-1]], dn], -1).astype(gates.dtype)
    return dgates, dkernel


def _by_newton(gates, kernel, h0, reset, options):
    return _newton_forward(gates, kernel, h0, reset, options)[0]


_newton: Any = jax.custom_vjp(_by_newton, nondiff_argnums=(4,))


def _newton_forward(gates, kernel, h0, reset, options):
    diagonals = _diagonals(kernel, h0.dtype)

    def step(h_tm1):
        h_tm1 = keep(reset, h_tm1)
        h, *saved = _cell(gates, kernel, h_tm1)
        return h, _jacobian_diagonal(diagonals, h_tm1, *saved)

    h, solved, _ = solve(step, h0, reset, tolerance=options.tolerance, iterations=options.iterations)
    h = lax.cond(solved, lambda: h, lambda: _reference(gates, kernel, h0, reset)[0])
    outputs = h, jnp.concatenate([h0[None], h])[-1]
    return outputs, (gates, kernel, h0, reset, h)


def _newton_backward(options, residuals, cotangents):
    """The adjoint is a recurrence too, from the last step to the first: y_t is what step t hands to the one before."""
    gates, kernel, h0, reset, h = residuals
    g, g_last = cotangents
    h_tm1 = keep(reset, jnp.concatenate([h0[None], h])[:-1])
    saved = (h_tm1, *_cell(gates, kernel, h_tm1)[1:])
    diagonal = _jacobian_diagonal(_diagonals(kernel, h0.dtype), *saved)

    def step(later):
        return keep(reset, _cell_backward(g + later, kernel, *saved)[0]), diagonal

    def one_by_one():
        def back(carry, inputs):
            g_t, reset_t, saved_t = inputs
            carry = keep(reset_t, _cell_backward(g_t + carry, kernel, *saved_t)[0])
            return carry, carry

        return lax.scan(back, g_last, (g, reset, saved), reverse=True)[1]

    largest = jnp.maximum(jnp.max(jnp.abs(g), initial=0), jnp.max(jnp.abs(g_last), initial=0))
    tolerance = options.tolerance * largest
    y, solved, _ = solve(step, g_last, reset, tolerance=tolerance, iterations=options.iterations, reverse=True)
    y = lax.cond(solved, lambda: y, one_by_one)
    later = jnp.concatenate([y, g_last[None]])[1:]
    _, through_kernel, dn = _cell_backward(g + later, kernel, *saved)
    dh0 = jnp.concatenate([y, g_last[None]])[0]
    return *_weight_gradients(gates, kernel, h_tm1, through_kernel, dn), dh0, None


_newton.defvjp(_newton_forward, _newton_backward)


def _diagonals(kernel: Array, dtype: Any) -> Array:
    """Of U_r, U_z and U_n, each [1, 1, N]."""
    N = kernel.shape[0]
    return jnp.diagonal(kernel.reshape(N, 3, N), axis1=0, axis2=2).astype(dtype)[:, None, None]


def _jacobian_diagonal(diagonals, h_tm1, r, z, n, u):
    """d h_i / d h_{t-1, i}."""
    u_r, u_z, u_n = diagonals
    dn = (1 - n * n) * (r * u_n + u * r * (1 - r) * u_r)
    return z + (h_tm1 - n) * z * (1 - z) * u_z + (1 - z) * dn
