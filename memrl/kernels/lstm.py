"""The recurrent half of an LSTM over a whole sequence; see `memrl.kernels.gru` for why it looks like this."""

import jax
import jax.numpy as jnp
from jax import lax

from memrl.errors import check
from memrl.kernels.backends import resolve_backend
from memrl.kernels.gru import check_cell_arguments, keep
from memrl.types import Array


def lstm_scan(
    gates: Array, kernel: Array, h0: Array, c0: Array, reset: Array | None = None, *, backend: str = "auto"
) -> tuple[Array, tuple[Array, Array]]:
    """Runs an LSTM (Hochreiter & Schmidhuber 1997, with forget gate) along the first axis.

        i, f, o = sigmoid(gates_ifo + h U_ifo),   g = tanh(gates_g + h U_g)
        c' = f c + i g,   h' = o tanh(c')

    Args:
        gates: the projected inputs with their biases, [T, B, 4N], in the order i, f, g, o.
        kernel: U = [U_i, U_f, U_g, U_o], [N, 4N].
        h0, c0: hidden and cell state before the first step, [B, N] float32.
        reset: [T, B] bool; true where both states before step t are zero.
        backend: "auto", "reference" (differentiated by JAX) or "xla" (its own backward pass).

    Returns:
        h [T, B, N] and the last (h, c), each [B, N], in h0's dtype.
    """
    backend = resolve_backend("lstm_scan", backend, ("reference", "xla"))
    check_cell_arguments("lstm_scan", 4, gates, kernel, h0, reset)
    check(c0.shape == h0.shape, f"lstm_scan: c0 has shape {c0.shape}, expected {h0.shape} like h0")
    return {"reference": _reference, "xla": _xla}[backend](gates, kernel, h0, c0, reset)


def _cell(gates_t, kernel, h, c):
    recurrent = jnp.dot(h.astype(kernel.dtype), kernel, preferred_element_type=h.dtype)
    i, f, g, o = jnp.split(gates_t.astype(h.dtype) + recurrent, 4, -1)
    i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
    c = f * c + i * g
    tanh_c = jnp.tanh(c)
    return o * tanh_c, c, (i, f, g, o, tanh_c)


def _reference(gates, kernel, h0, c0, reset):
    def step(carry, inputs):
        gates_t, reset_t = inputs
        h, c = (keep(reset_t, x) for x in carry)
        h, c, _ = _cell(gates_t, kernel, h, c)
        return (h, c), h

    last, h = lax.scan(step, (h0, c0), (gates, reset))
    return h, last


@jax.custom_vjp
def _xla(gates, kernel, h0, c0, reset):
    return _reference(gates, kernel, h0, c0, reset)


def _xla_forward(gates, kernel, h0, c0, reset):
    def step(carry, inputs):
        gates_t, reset_t = inputs
        h_tm1, c_tm1 = (keep(reset_t, x) for x in carry)
        h, c, activations = _cell(gates_t, kernel, h_tm1, c_tm1)
        return (h, c), (h, (h_tm1, c_tm1, *activations))

    last, (h, saved) = lax.scan(step, (h0, c0), (gates, reset))
    return (h, last), (gates, kernel, reset, saved)


def _xla_backward(residuals, cotangents):
    gates, kernel, reset, saved = residuals
    g_h, last = cotangents

    def step(carry, inputs):
        dh, dc = carry
        g_t, reset_t, (_, c_tm1, i, f, g, o, tanh_c) = inputs
        dh = dh + g_t
        dc = dc + dh * o * (1 - tanh_c * tanh_c)
        do = dh * tanh_c * o * (1 - o)
        df = dc * c_tm1 * f * (1 - f)
        di = dc * g * i * (1 - i)
        dg = dc * i * (1 - g * g)
        dgates = jnp.concatenate([di, df, dg, do], -1)
        dh = jnp.dot(dgates.astype(kernel.dtype), kernel.T, preferred_element_type=dc.dtype)
        return (keep(reset_t, dh), keep(reset_t, dc * f)), dgates

    (dh0, dc0), dgates = lax.scan(step, last, (g_h, reset, saved), reverse=True)
    dkernel = jnp.einsum("tbn,tbm->nm", saved[0], dgates).astype(kernel.dtype)
    return dgates.astype(gates.dtype), dkernel, dh0, dc0, None


_xla.defvjp(_xla_forward, _xla_backward)
