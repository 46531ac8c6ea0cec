"""GRU and LSTM against the cells of flax, with the same weights."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from cores.numeric import assert_close, normal
from flax import nnx

from memrl import make_core

T, B, D = 5, 2, 4


def flax_gru(core):
    cell: Any = nnx.GRUCell(D, D, rngs=nnx.Rngs(0))
    cell.dense_i.kernel[...] = core.input.kernel[...]
    cell.dense_i.bias[...] = core.input.bias[...]
    cell.dense_h.kernel[...] = core.recurrent[...]
    return cell


def flax_lstm(core):
    cell: Any = nnx.OptimizedLSTMCell(D, D, rngs=nnx.Rngs(0))
    cell.dense_i.kernel[...] = core.input.kernel[...]
    cell.dense_h.kernel[...] = core.recurrent[...]
    cell.dense_h.bias[...] = core.input.bias[...]
    return cell


@pytest.mark.parametrize(("name", "copy"), [("gru", flax_gru), ("lstm", flax_lstm)])
def test_equals_the_cell_of_flax(name, copy):
    core: Any = make_core(name, D, rngs=nnx.Rngs(0))
    core.input.bias[...] = normal(np.random.default_rng(1), core.input.bias.shape)  # zeros would hide their order
    cell = copy(core)
    xs = normal(np.random.default_rng(0), (T, B, D))
    state, ys = core.unroll(core.initial_state(B), xs, jnp.zeros((T, B), bool))
    h = core.initial_state(B)
    carry = h if name == "gru" else h[::-1]  # flax keeps (c, h)
    expected = []
    for x in xs:
        carry, y = cell(carry, x)
        expected.append(y)
    assert_close(ys, np.stack(expected), 2e-6)
    assert_close(state, carry if name == "gru" else carry[::-1], 2e-6)


def test_the_forget_gate_starts_open():
    core: Any = make_core("lstm", D, rngs=nnx.Rngs(0), forget_bias=0.7)
    bias = np.asarray(core.input.bias[...])
    np.testing.assert_array_equal(bias, np.repeat(np.array([0, 0.7, 0, 0], np.float32), D))


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_each_recurrent_gate_starts_orthogonal(name):
    core: Any = make_core(name, D, rngs=nnx.Rngs(0))
    recurrent = np.asarray(core.recurrent[...])
    gates = np.split(recurrent, recurrent.shape[1] // D, 1)
    for gate in gates:
        assert_close(gate.T @ gate, np.eye(D), 1e-6)
    assert not np.allclose(gates[0], gates[1])
