"""The GRU's scan against its equations."""

import numpy as np
from cell_checks import CellChecks, sigmoid

from memrl.kernels import gru_scan


class TestGRU(CellChecks):
    scan = gru_scan
    num_gates, num_states = 3, 1

    @staticmethod
    def cell(gates_t, kernel, *states):
        (h,) = states
        (g_r, g_z, g_n), (u_r, u_z, u_n) = np.split(gates_t, 3, -1), np.split(kernel, 3, -1)
        r, z = sigmoid(g_r + h @ u_r), sigmoid(g_z + h @ u_z)
        n = np.tanh(g_n + r * (h @ u_n))
        return ((1 - z) * n + z * h,)
