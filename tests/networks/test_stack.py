"""The layers round the cores, against their equations in NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cores.numeric import assert_close, exact, normal
from cores.references.common import affine, gelu, sigmoid
from flax import nnx
from quick import quick_jit

from memrl import MemrlError, StackConfig, core_config, make_core
from memrl.cores.gate import Gate
from memrl.networks import MemoryStack
from memrl.networks.metrics import means_by_name

T, B, D = 5, 2, 8
rng = np.random.default_rng(0)
XS = normal(rng, (T, B, D))
RESETS = jnp.array(np.random.default_rng(0).random((T, B)) < 0.3)


def make(*cores, **config) -> Any:
    """A stack of named cores, whose parameters are all random: ones and zeros would hide what they multiply."""
    cores = [core_config(core) if isinstance(core, str) else core for core in cores]
    stack = MemoryStack(D, cores, StackConfig(**config), rngs=nnx.Rngs(0))
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


def test_there_are_as_many_layers_as_cores():
    hybrid = ["s5", "s5", "s5", "window_attention"]
    names = ["S5", "S5", "S5", "WindowAttention"]
    assert [type(layer.core).__name__ for layer in make(*hybrid).layers] == names
    assert [type(layer.core).__name__ for layer in make(*hybrid, layers=6).layers] == [*names, "S5", "S5"]


@pytest.mark.parametrize("source", ["s5", "gru", None])
def test_a_unit_reads_the_layer_that_it_names(source):
    unit = core_config("gmu", source=source)
    stack = make("s5", "gru", unit, unit, norm="none", residual="none")
    first, second, *units = [layer.core for layer in stack.layers]
    initial = stack.initial_state(B)
    state, xs, of_s5 = first.unroll_with_readout(initial[0], XS, RESETS)
    other, xs, of_gru = second.unroll_with_readout(initial[1], xs, RESETS)
    memory = of_s5 if source == "s5" else of_gru
    for core in units:  # the second of them reads what the first has read
        xs = core.output(memory * nnx.silu(core.gate(xs)))
    assert_close(stack.unroll(initial, XS, RESETS), ((state, other, (), ()), xs), 1e-5)


def test_metrics_of_the_layers_are_the_stacks():
    """Of those that measure something, the mean."""
    assert means_by_name([{}, {"a": jnp.array(1.0), "b": jnp.array(4.0)}, {"a": jnp.array(3.0)}]) == {"a": 2, "b": 4}
    assert make("gru", "s5").metrics == ()
    stack = make("titans", "gru", "ttt_linear", norm="none", residual="none")
    assert stack.metrics == ("inner_loss",)
    initial, xs, losses = stack.initial_state(B), jnp.asarray(XS), []
    for layer, state in zip(stack.layers, initial, strict=True):
        _, xs, extras = quick_jit(layer.core.unroll_with_extras)(state, xs, RESETS)
        losses += extras.metrics.values()
    _, _, extras = quick_jit(stack.unroll_with_extras)(initial, jnp.asarray(XS), RESETS)
    assert len(losses) == 2
    assert_close(extras.metrics, {"inner_loss": np.mean(losses)}, 1e-5)


def test_the_readout_of_s5_comes_before_its_activation():
    core = make_core("s5", D, rngs=nnx.Rngs(0))
    bare = make_core("s5", D, rngs=nnx.Rngs(0), activation="none")
    _, _, readout = core.unroll_with_readout(core.initial_state(B), jnp.asarray(XS), RESETS)
    assert_close(readout, bare.unroll(bare.initial_state(B), jnp.asarray(XS), RESETS)[1], 1e-6)


GMU, ELSEWHERE = core_config("gmu"), core_config("gmu", source="lstm")


@pytest.mark.parametrize(
    ("cores", "layers", "says"),
    [
        ([GMU], None, "core gmu: no layer comes before it, expected another core whose memory it can read"),
        ([GMU, "s5"], 4, "core gmu: no layer comes before it, expected another core whose memory it can read"),
        (["s5", ELSEWHERE], None, "core gmu: source is 'lstm', expected the core of a layer before it: ['s5']"),
        (["s5", "s5", "gru"], 2, "stack: layers is 2, expected at least 3, one for each core"),
    ],
    ids=str,
)
def test_impossible_stacks_are_one_line(cores, layers, says):
    with pytest.raises(MemrlError) as error:
        make(*cores, layers=layers)
    assert str(error.value) == says


def test_a_unit_alone_is_one_line():
    with pytest.raises(MemrlError, match=r"^core gmu: no layer comes before it"):
        make_core("gmu", D, rngs=nnx.Rngs(0))


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


@pytest.mark.parametrize("cores", [("gru",), ("gated_deltanet", "gru"), ("s5", "gmu"), ("titans",)], ids=str)
def test_layers_that_are_computed_again_are_the_same_and_keep_less(cores):
    params = nnx.state(make(*cores, feed_forward=4), nnx.Param)

    def gradients(recompute):
        graphdef = nnx.graphdef(make(*cores, feed_forward=4, recompute=recompute))

        def loss(params):
            stack = nnx.merge(graphdef, params)
            return jnp.sum(jnp.sin(stack.unroll(stack.initial_state(B), jnp.asarray(XS), RESETS)[1]))

        kept = jax.eval_shape(lambda params: jax.vjp(loss, params)[1], params)
        return quick_jit(jax.value_and_grad(loss))(params), sum(x.size for x in jax.tree.leaves(kept))

    (again, few), (plain, many) = gradients(True), gradients(False)
    assert_close(again, plain, 5e-5)  # what is computed again is fused otherwise, and gradients are sums that cancel
    assert few < 0.8 * many
