"""The layers round the cores, against their equations in NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cores.numeric import assert_close, exact, normal
from cores.references.common import affine, gelu, sigmoid
from flax import nnx

from memrl import MemrlError, StackConfig, core_config, make_core
from memrl.cores.gate import Gate
from memrl.networks import MemoryStack

T, B, D = 5, 2, 8
rng = np.random.default_rng(0)
XS = normal(rng, (T, B, D))
RESETS = jnp.array(np.random.default_rng(0).random((T, B)) < 0.3)


def make(*cores, **config) -> Any:
    """A stack whose parameters are all random: ones and zeros would hide what they multiply."""
    stack = MemoryStack(D, [core_config(name) for name in cores], StackConfig(**config), rngs=nnx.Rngs(0))
    params = nnx.state(stack, nnx.Param)
    nnx.update(stack, jax.tree.map(lambda x: x + 0.3 * normal(rng, x.shape), params))
    return stack


def layer_norm(p, x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def gate(p, x, y):
    """GTrXL, Parisotto et al. 2020: the sublayer's output passes a ReLU before the gate."""
    y = np.maximum(y, 0)
    w_r, w_z, w_g = np.split(p["from_y"]["kernel"], 3, -1)
    u_r, u_z = np.split(p["from_x"]["kernel"], 2, -1)
    r = sigmoid(y @ w_r + x @ u_r)
    z = sigmoid(y @ w_z + x @ u_z - p["bias"])
    h = np.tanh(y @ w_g + (r * x) @ p["from_reset"]["kernel"])
    return (1 - z) * x + z * h


def join(config, p, x, y):
    return {"none": lambda: y, "add": lambda: x + y, "gate": lambda: gate(p["join"], x, y)}[config.residual]()


def expected_of(stack, config):
    p, x = exact(nnx.to_pure_dict(nnx.state(stack, nnx.Param))), XS.astype(np.float64)
    norm = layer_norm if config.norm == "layer" else lambda _, x: x
    for i, layer in enumerate(stack.layers):
        q = p["layers"][i]
        inputs = norm(q.get("norm"), x)
        _, ys = layer.core.unroll(layer.core.initial_state(B), jnp.asarray(inputs, jnp.float32), RESETS)
        x = join(config, q, x, np.asarray(ys, np.float64))
        if config.feed_forward:
            f = q["feed_forward"]
            y = affine(f["output"], gelu(affine(f["hidden"], norm(f.get("norm"), x))))
            x = join(config, f, x, y)
    return norm(p.get("norm"), x)


@pytest.mark.parametrize("residual", ["none", "add", "gate"])
@pytest.mark.parametrize("norm", ["layer", "none"])
@pytest.mark.parametrize("feed_forward", [0, 7])
def test_equals_the_equations(residual, norm, feed_forward):
    config = StackConfig(layers=2, residual=residual, norm=norm, feed_forward=feed_forward)
    stack = make("gru", "mlp", layers=2, residual=residual, norm=norm, feed_forward=feed_forward)
    _, ys = nnx.jit(MemoryStack.unroll)(stack, stack.initial_state(B), XS, RESETS)
    assert_close(ys, expected_of(stack, config), 2e-5)


def test_bare_layer_is_the_core_itself():
    stack = MemoryStack(D, [core_config("gru")], StackConfig(norm="none", residual="none"), rngs=nnx.Rngs(3))
    core = make_core("gru", D, rngs=nnx.Rngs(3))
    (state,), ys = stack.unroll(stack.initial_state(B), XS, RESETS)
    assert_close((state, ys), core.unroll(core.initial_state(B), XS, RESETS), 1e-6)


def test_cores_take_turns():
    stack = make("lstm", "mlp", "gru", layers=5)
    assert [type(layer.core).__name__ for layer in stack.layers] == ["LSTM", "MLP", "GRU", "LSTM", "MLP"]
    shapes = jax.tree.map(lambda x: x.shape, stack.initial_state(B))
    assert shapes == (((B, D), (B, D)), (), (B, D), ((B, D), (B, D)), ())


def test_equal_layers_start_differently():
    stack: Any = MemoryStack(D, [core_config("gru")], StackConfig(layers=2), rngs=nnx.Rngs(0))
    assert not np.allclose(*[layer.core.recurrent[...] for layer in stack.layers])


@pytest.mark.parametrize(("bias", "distance"), [(30.0, 1e-6), (2.0, 0.2), (-2.0, 2.0)])
def test_the_gate_starts_near_the_identity(bias, distance):
    x, y = normal(rng, (1000, D)), normal(rng, (1000, D))
    moved = np.abs(np.asarray(Gate(D, bias, rngs=nnx.Rngs(0))(x, y)) - x).mean() / np.abs(x).mean()
    assert moved <= distance
    assert moved >= distance / 4 or bias == 30


def test_the_gate_of_a_stack_takes_its_bias_from_the_config():
    stack: Any = MemoryStack(
        D,
        [core_config("mlp")],
        StackConfig(residual="gate", gate_bias=1.5, feed_forward=4),
        rngs=nnx.Rngs(0),
    )
    layer = stack.layers[0]
    for join in (layer.join, layer.feed_forward.join):
        np.testing.assert_array_equal(join.bias[...], np.full(D, 1.5, np.float32))
    assert StackConfig().gate_bias == 2


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"layers": 0}, "stack: layers is 0, expected at least 1"),
        ({"feed_forward": -1}, "stack: feed_forward is -1, expected at least 0"),
    ],
    ids=str,
)
def test_errors_name_the_field(config, says):
    with pytest.raises(MemrlError) as error:
        StackConfig(**config)
    assert str(error.value) == says
