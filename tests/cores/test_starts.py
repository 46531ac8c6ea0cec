"""What cores start with, where a paper or its authors' code says it."""

from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from memrl import make_core


def start(name: str, features: int = 64, **hyperparameters: Any) -> Any:
    return make_core(name, features, rngs=nnx.Rngs(0), **hyperparameters)


def test_s4d():
    core = start("s4d", 64, state_size=32)
    assert np.mean(np.sum(np.square(core.output[...]), 0)) == pytest.approx(1, rel=0.05)
    np.testing.assert_allclose(-np.exp(core.log_real[...]), -0.5, rtol=1e-6)
    np.testing.assert_allclose(core.imag[...][0], np.pi * np.arange(16), rtol=1e-6)
    inverse = start("s4d", 8, state_size=4, init="inv").imag[...][0]
    np.testing.assert_allclose(inverse, [4 / np.pi * 3, 4 / np.pi / 3], rtol=1e-6)


@pytest.mark.parametrize("name", ["mamba", "mamba2"])
def test_steps_of_mamba(name):
    core = start(name, 512)
    bias = core.dt_bias if name == "mamba" else core.decay.bias
    dt = np.asarray(jax.nn.softplus(bias[...]))
    assert dt.min() >= 0.99e-3
    assert dt.max() <= 0.101
    assert np.median(np.log10(dt)) == pytest.approx(-2, abs=0.5)


def test_decays_of_mamba():
    np.testing.assert_allclose(np.exp(start("mamba").A_log[...][0]), np.arange(1, 17), rtol=1e-6)


def test_decays_of_gated_deltanet_reach_below_those_of_mamba2():
    rates = {name: np.exp(start(name, 256, heads=128).decay.log_rate[...]) for name in ("gated_deltanet", "mamba2")}
    assert 0 < rates["gated_deltanet"].min() < 1 <= rates["mamba2"].min()
    assert all(8 < rate.max() <= 16 for rate in rates.values())


def test_lru():
    core = start("lru", 512, r_min=0.5, r_max=0.9, max_phase=0.3)
    size, phase = np.exp(-np.exp(core.nu[...])), np.exp(core.theta[...])
    assert 0.5 <= size.min() < 0.55 < 0.85 < size.max() <= 0.9
    assert np.mean(np.square(size)) == pytest.approx((0.25 + 0.81) / 2, rel=0.05)  # uniform by area
    assert 0 < phase.min() < 0.02 < 0.28 < phase.max() <= 0.3
    np.testing.assert_allclose(np.exp(core.log_gamma[...]), np.sqrt(1 - np.square(size)), rtol=1e-4)


def test_gates_of_mlstm():
    core = start("mlstm", 128)
    assert (core.gates.kernel[...] == 0).all()
    enter, forget = np.split(np.asarray(core.gates.bias[...]), 2)
    np.testing.assert_allclose(forget, [3, 4, 5, 6])
    assert 0 < np.abs(enter).max() < 0.5


def test_gates_of_slstm():
    core = start("slstm", 128, forget_power=0.3)
    i, f, z, o = np.moveaxis(np.asarray(core.bias[...]), 1, 0)
    assert not np.concatenate([i, z, o]).any()
    np.testing.assert_allclose(f[0, [0, 32, 63]], [5, 5 - 12 * (32 / 63) ** 0.3, -7], rtol=1e-6)
    assert (core.recurrent[...] == 0).all()
    assert np.abs(start("slstm", 64, recurrent_init="uniform").recurrent[...]).max() == pytest.approx(1 / 8, rel=0.01)


def test_ffm():
    core = start("ffm", max_period=100.0)
    decay = np.asarray(core.decay[...])
    assert np.exp(-100 * decay[0]) == pytest.approx(0.01, rel=1e-4)
    assert decay[-1] == pytest.approx(0.67)
    np.testing.assert_allclose(2 * np.pi / core.frequency[...], [1, 34, 67, 100], rtol=1e-5)


def test_gates_of_gtrxl_start_near_the_identity():
    core = start("gtrxl")
    assert (core.gate.bias[...] == 2).all()


def test_recurrent_weights_of_indrnn_are_between_zero_and_their_bound():
    u = start("indrnn", 512, recurrent_bound=0.5).recurrent[...]
    assert 0 <= u.min() < 0.01 < 0.49 < u.max() <= 0.5
