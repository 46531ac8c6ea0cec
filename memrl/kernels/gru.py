"""The recurrent half of a GRU over a whole sequence; see `memrl.kernels.cells` for what runs its equations.

`backend="newton"` computes all steps at once, again and again until they agree: see `memrl.kernels.newton`. On a CPU
it does not pay (`memrl bench kernels`); on a GPU it has not been timed.
"""

import jax
import jax.numpy as jnp

from memrl.kernels.backends import resolve_backend
from memrl.kernels.cells import Cell, cell_scan, check_cell_arguments
from memrl.kernels.newton import DEFAULT_NEWTON, NewtonOptions, newton_scan
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
        backend: "auto" (NVIDIA GPU and U small enough to stay on chip: "pallas", else "xla"), "reference"
            (differentiated by JAX), "xla" (its own backward pass), "newton" (parallel in time, never chosen by "auto"),
            "pallas" (one kernel for all steps, GPU only) or "interpret" (the same kernel, for tests).
        newton: when "newton" stops.

    Returns:
        h [T, B, N] and the last state [B, N], both in h0's dtype.

    Raises:
        MemrlError: for sizes that do not match, or with "pallas" a U that does not fit on chip.
    """
    backend = resolve_backend("gru_scan", backend, ("auto", "reference", "xla", "newton", "pallas", "interpret"))
    check_cell_arguments(GRU, gates, kernel, h0, reset)
    if backend == "newton":
        h, (last,) = newton_scan(GRU, gates, kernel, (h0,), reset, newton)
    else:
        h, (last,) = cell_scan(GRU, gates, kernel, (h0,), reset, backend)
    return h, last


def _forward(gates, recurrent, states):
    (g_r, g_z, g_n), (u_r, u_z, u_n), (h,) = gates, recurrent, states
    r, z = jax.nn.sigmoid(g_r + u_r), jax.nn.sigmoid(g_z + u_z)
    n = jnp.tanh(g_n + r * u_n)
    return ((1 - z) * n + z * h,), (r, z, n, u_n)


def _backward(dstates, before, after, saved):
    (dh,), (h_tm1,), (r, z, n, u_n) = dstates, before, saved
    dn = dh * (1 - z) * (1 - n * n)
    dz = dh * (h_tm1 - n) * z * (1 - z)
    dr = dn * u_n * r * (1 - r)
    return (dh * z,), (dr, dz, dn), (dr, dz, dn * r)


GRU = Cell("gru_scan", 3, 1, 4, _forward, _backward, one_sum=False)
