"""The recurrent half of an LSTM over a whole sequence; see `memrl.kernels.cells` for what runs its equations."""

import jax
import jax.numpy as jnp

from memrl.errors import check
from memrl.kernels.backends import resolve_backend
from memrl.kernels.cells import Cell, cell_scan, check_cell_arguments
from memrl.kernels.newton import DEFAULT_NEWTON, NewtonOptions, newton_scan
from memrl.types import Array


def lstm_scan(
    gates: Array,
    kernel: Array,
    h0: Array,
    c0: Array,
    reset: Array | None = None,
    *,
    backend: str = "auto",
    newton: NewtonOptions = DEFAULT_NEWTON,
) -> tuple[Array, tuple[Array, Array]]:
    """Runs an LSTM (Hochreiter & Schmidhuber 1997, with forget gate) along the first axis.

        i, f, o = sigmoid(gates_ifo + h U_ifo),   g = tanh(gates_g + h U_g)
        c' = f c + i g,   h' = o tanh(c')

    Args:
        gates: the projected inputs with their biases, [T, B, 4N], in the order i, f, g, o.
        kernel: U = [U_i, U_f, U_g, U_o], [N, 4N].
        h0, c0: hidden and cell state before the first step, [B, N] float32.
        reset: [T, B] bool; true where both states before step t are zero.
        backend: as in `gru_scan`: "auto", "reference", "xla", "newton", "pallas" or "interpret".
        newton: when "newton" stops.

    Returns:
        h [T, B, N] and the last (h, c), each [B, N], in h0's dtype.

    Raises:
        MemrlError: for sizes that do not match, or with "pallas" a U that does not fit on chip.
    """
    backend = resolve_backend("lstm_scan", backend, ("auto", "reference", "xla", "newton", "pallas", "interpret"))
    check_cell_arguments(LSTM, gates, kernel, h0, reset)
    check(c0.shape == h0.shape, f"lstm_scan: c0 has shape {c0.shape}, expected {h0.shape} like h0")
    check(c0.dtype == h0.dtype, f"lstm_scan: c0 has dtype {c0.dtype}, expected {h0.dtype} like h0")
    if backend == "newton":
        h, (h_last, c_last) = newton_scan(LSTM, gates, kernel, (h0, c0), reset, newton)
    else:
        h, (h_last, c_last) = cell_scan(LSTM, gates, kernel, (h0, c0), reset, backend)
    return h, (h_last, c_last)


def _forward(gates, recurrent, states):
    _, c = states
    i, f, g, o = (x + u for x, u in zip(gates, recurrent, strict=True))
    i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
    c = f * c + i * g
    return (o * jnp.tanh(c), c), (i, f, g, o)


def _backward(dstates, before, after, saved):
    (dh, dc), (_, c_tm1), (_, c), (i, f, g, o) = dstates, before, after, saved
    tanh_c = jnp.tanh(c)
    dc = dc + dh * o * (1 - tanh_c * tanh_c)
    do = dh * tanh_c * o * (1 - o)
    df = dc * c_tm1 * f * (1 - f)
    di = dc * g * i * (1 - i)
    dg = dc * i * (1 - g * g)
    return (jnp.zeros_like(dh), dc * f), (di, df, dg, do), (di, df, dg, do)


LSTM = Cell("lstm_scan", 4, 2, 4, _forward, _backward, one_sum=True)
