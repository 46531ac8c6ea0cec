"""The LSTM's scan against its equations."""

import jax.numpy as jnp
import numpy as np
import pytest
from cell_checks import CellChecks, N, sigmoid

from memrl import MemrlError
from memrl.kernels import lstm_scan


class TestLSTM(CellChecks):
    scan = lstm_scan
    num_gates, num_states = 4, 2

    @staticmethod
    def cell(gates_t, kernel, *states):
        h, c = states
        g_i, g_f, g_g, g_o = np.split(gates_t, 4, -1)
        u_i, u_f, u_g, u_o = np.split(kernel, 4, -1)
        i, f, o = sigmoid(g_i + h @ u_i), sigmoid(g_f + h @ u_f), sigmoid(g_o + h @ u_o)
        c = f * c + i * np.tanh(g_g + h @ u_g)
        return o * np.tanh(c), c

    def test_the_cell_state_must_be_shaped_like_the_hidden_state(self):
        (gates, kernel, h0, _), _ = self.problem()
        with pytest.raises(MemrlError, match=r"^lstm_scan: c0 has shape \(1, 3\), expected \(2, 3\) like h0$"):
            lstm_scan(gates, kernel, h0, jnp.zeros((1, N)))
        with pytest.raises(MemrlError, match=r"^lstm_scan: c0 has dtype bfloat16, expected float32 like h0$"):
            lstm_scan(gates, kernel, h0, jnp.zeros((2, N), jnp.bfloat16))
