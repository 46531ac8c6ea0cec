"""Cores with a matrix for a state: mistakes, their start, the cost of a step, and numbers of flash-linear-attention."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cores.numeric import assert_close
from flax import nnx
from quick import quick_jit

from memrl import MemrlError, list_cores, make_core
from memrl.cores.heads import default_heads
from memrl.cores.linear_attention import HeadDecay, kernel_backend
from memrl.cores.retnet import angles, count_on
from memrl.cores.rwkv7 import LEAST_LOG_DECAY, RWKV7, RWKV7Config
from memrl.kernels import dplr_delta_rule, gated_delta_rule, gated_linear_attention

CORES = ["deltanet", "deltaproduct", "gated_deltanet", "gla", "hgrn2", "mamba2", "retnet", "rwkv7"]
MISTAKES = [
    ("deltanet", {"heads": 3}, "core deltanet: features is 8, expected a multiple of heads = 3"),
    ("deltanet", {"conv_width": 0}, "core deltanet: conv_width is 0, expected more than 0"),
    ("deltaproduct", {"steps": 0}, "core deltaproduct: steps is 0, expected more than 0"),
    ("gated_deltanet", {"key_width": 0}, "core gated_deltanet: key_width is 0, expected more than 0"),
    ("gla", {"gate_rank": 0}, "core gla: gate_rank is 0, expected more than 0"),
    ("gla", {"temperature": 0.0}, "core gla: temperature is 0.0, expected more than 0"),
    ("gla", {"heads": 16}, "core gla: features is 8, expected a multiple of heads = 16"),
    ("hgrn2", {"lower_bound": 1.0}, "core hgrn2: lower_bound is 1.0, expected in [0, 1)"),
    ("hgrn2", {"lower_bound": -0.1}, "core hgrn2: lower_bound is -0.1, expected in [0, 1)"),
    ("mamba2", {"heads": 3}, "core mamba2: expansion * features is 16, expected a multiple of heads = 3"),
    ("mamba2", {"heads": 2, "groups": 4}, "core mamba2: heads is 2, expected a multiple of groups = 4"),
    ("mamba2", {"dt_min": 0.1, "dt_max": 0.01}, "core mamba2: dt_max is 0.01, expected at least 0.1"),
    ("retnet", {"key_width": 3}, "core retnet: key_width is 3, expected an even number"),
    ("retnet", {"exponents": (0.0, 2.0)}, "core retnet: exponents is (0.0, 2.0), expected more than 0"),
    ("retnet", {"value_width": -1}, "core retnet: value_width is -1, expected more than 0"),
    ("rwkv7", {"heads": 3}, "core rwkv7: features is 8, expected a multiple of heads = 3"),
    ("rwkv7", {"decay_rank": 0}, "core rwkv7: decay_rank is 0, expected more than 0"),
    ("rwkv7", {"rate_rank": -1}, "core rwkv7: rate_rank is -1, expected more than 0"),
    ("rwkv7", {"gate_rank": 0}, "core rwkv7: gate_rank is 0, expected more than 0"),
]


@pytest.mark.parametrize(("name", "hyperparameters", "says"), MISTAKES, ids=str)
def test_mistakes(name, hyperparameters, says):
    with pytest.raises(MemrlError) as error:
        make_core(name, 8, rngs=nnx.Rngs(0), **hyperparameters)
    assert str(error.value) == says


def test_default_heads_divide_the_width_and_are_not_narrow():
    assert [default_heads(width) for width in (1, 8, 64, 127, 128, 192, 200, 256)] == [1, 1, 1, 1, 2, 3, 2, 4]


@pytest.mark.parametrize("name", CORES)
@pytest.mark.parametrize("features", [1, 7])
def test_odd_widths_have_defaults(name, features):
    core = make_core(name, features, rngs=nnx.Rngs(0))
    _, y = quick_jit(core.step)(core.initial_state(2), jnp.ones((2, features)), jnp.zeros(2, bool))
    assert y.shape == (2, features)
    assert jnp.isfinite(y).all()


def test_decays_start_in_their_range():
    decay = HeadDecay(1000, rngs=nnx.Rngs(0))
    rate = np.exp(decay.log_rate[...])
    dt, log_decay = decay(jnp.zeros((1, 1, 1000)))
    assert rate.min() >= 1
    assert rate.max() <= 16
    assert rate.mean() == pytest.approx(8.5, rel=0.05)
    quantiles: Any = np.quantile(np.log10(dt), [0, 0.5, 1])
    np.testing.assert_allclose(quantiles, [-3, -2, -1], atol=0.1)
    assert_close(log_decay[0, 0], -rate * dt[0, 0], 1e-6)


def test_rwkv7_starts_with_slow_and_fast_channels():
    """Half-lives from one step to thousands, in every head, and rates of removal round one half."""
    core = RWKV7(128, RWKV7Config(heads=2), rngs=nnx.Rngs(0))
    d, a = core.decay.second.bias, core.rate.second.bias
    assert d is not None
    assert a is not None
    half_lives = np.log(0.5) / (LEAST_LOG_DECAY * np.asarray(nnx.sigmoid(d[...])))
    assert half_lives.min() == pytest.approx(1.2, rel=0.01)
    assert half_lives.max() == pytest.approx(3400, rel=0.01)
    assert (half_lives.reshape(2, 64).max(1) > 100 * half_lives.reshape(2, 64).min(1)).all()
    rates = np.asarray(nnx.sigmoid(a[...]))
    assert rates.min() > 0.3
    assert rates.max() < 0.6


def test_angles_keep_their_digits_in_long_episodes():
    t = jnp.array([[0, 1, 1023, 1024, 100_000]])
    theta = 10_000.0 ** -np.linspace(0, 1, 4)
    turned = np.exp(1j * np.asarray(angles(t, 8)).astype(np.float64))
    np.testing.assert_allclose(turned, np.exp(1j * np.asarray(t)[..., None] * theta), atol=2e-4)


def test_positions_count_on_and_start_again():
    resets = jnp.array([0, 0, 1, 0, 1, 1, 0], bool)[:, None]
    assert count_on(jnp.array([5]), resets)[:, 0].tolist() == [5, 6, 0, 1, 0, 0, 1]


@pytest.mark.parametrize("name", CORES)
def test_a_step_costs_what_a_step_of_a_long_unroll_costs(name):
    """In operations as XLA counts them; a step that computed a chunk would cost tens of times as much."""
    assert name in list_cores()
    core = make_core(name, 64, rngs=nnx.Rngs(0))
    state = core.initial_state(4)

    def flops(T: int) -> float:
        lowered = jax.jit(core.unroll).lower(state, jnp.zeros((T, 4, 64)), jnp.zeros((T, 4), bool))
        cost = lowered.cost_analysis()
        assert cost is not None
        return cost["flops"]

    assert flops(1) < 1.5 * flops(64) / 64


NUMBERS = np.load(Path(__file__).with_name("fla_recurrences.npz"))  # see make_fla_recurrences.py
STEPS, HOUSEHOLDERS, SCALE = 9, 2, 0.5


def fla(name: str) -> jax.Array:
    return jnp.swapaxes(NUMBERS[name], 0, 1)


def first(name: str) -> jax.Array:
    return fla(name)[:STEPS]


def by_step(name: str) -> jax.Array:
    """[T * n, B, ...] as [n, T, B, ...]."""
    x = fla(name)
    return jnp.moveaxis(x.reshape(STEPS, HOUSEHOLDERS, *x.shape[1:]), 1, 0)


def results(name: str, backend: str) -> tuple[jax.Array, jax.Array]:
    q, s, k, v = fla("q") * SCALE, NUMBERS["s"], first("k"), first("v")
    options: Any = {"s0": jnp.asarray(s), "backend": backend, "chunk_size": 4}
    match name:
        case "delta":
            return gated_delta_rule(q, k, v, first("beta"), **options)
        case "gated_delta":
            return gated_delta_rule(q, k, v, first("beta"), fla("by_head"), **options)
        case "delta_product":
            return gated_delta_rule(q, by_step("k"), by_step("v"), by_step("beta"), fla("by_head"), **options)
        case "dplr":
            return dplr_delta_rule(q, k, v, fla("a"), fla("b"), fla("by_channel"), least_log_decay=-1.0, **options)
    return gated_linear_attention(q, k, v, fla("by_channel"), **options)


@pytest.mark.parametrize("backend", ["reference", "xla"])
@pytest.mark.parametrize("name", ["delta", "gated_delta", "delta_product", "dplr", "gla"])
def test_recurrences_equal_those_of_flash_linear_attention(name, backend):
    o, s = results(name, backend)
    assert_close((jnp.swapaxes(o, 0, 1), s), (NUMBERS[f"{name}_o"], NUMBERS[f"{name}_s"]), 2e-6)


def test_retention_equals_that_of_flash_linear_attention():
    k = first("k")
    log_decay = jnp.log1p(-(2.0 ** (-5 - jnp.arange(k.shape[2]))))
    decays = jnp.broadcast_to(log_decay[None, None, :, None], (*k.shape[:3], 1))
    o, _ = gated_linear_attention(fla("q") * SCALE, k, first("v"), decays)
    assert_close(jnp.swapaxes(o, 0, 1), NUMBERS["retention_o"], 2e-6)


def test_one_step_takes_the_plain_recurrence():
    assert kernel_backend(jnp.zeros((1, 2, 3))) == "reference"
    assert kernel_backend(jnp.zeros((2, 2, 3))) == "auto"
