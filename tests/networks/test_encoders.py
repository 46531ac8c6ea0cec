"""What the dense layers of an encoder get to see of every kind of observation."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cores.numeric import assert_close, normal
from flax import nnx

from memrl import MemrlError
from memrl.networks.encoders import Encoder
from memrl.spaces import Box, Dict, Discrete, MultiDiscrete, Space, Tuple

T, B = 3, 2
rng = np.random.default_rng(0)


def encoder(space, sizes=(), activation: Any = "relu") -> Any:
    """Without dense layers an encoder gives what they would see."""
    return Encoder(space, sizes, activation, rngs=nnx.Rngs(0))


def unbounded(*shape, dtype=jnp.float32):
    return Box(-np.inf, np.inf, shape, dtype)


def test_boxes_are_flattened():
    x = normal(rng, (B, 2, 3))
    assert_close(encoder(unbounded(2, 3))(x), x.reshape(B, 6), 0)
    assert_close(encoder(unbounded())(x[:, 0, 0]), x[:, 0, :1], 0)


def test_integer_boxes_become_floats():
    y = encoder(unbounded(2, dtype=jnp.int32))(np.array([[1, 7]], np.int32))
    assert y.dtype == jnp.float32
    np.testing.assert_array_equal(y, [[1, 7]])


def test_discrete_values_are_one_hot():
    np.testing.assert_array_equal(encoder(Discrete(3))(np.array([2, 0], np.int32)), [[0, 0, 1], [1, 0, 0]])


def test_multi_discrete_values_are_one_hot_side_by_side():
    y = encoder(MultiDiscrete([2, 3]))(np.array([[1, 0], [0, 2]], np.int32))
    np.testing.assert_array_equal(y, [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]])


PARTS = {
    "b": unbounded(2),
    "a10": Discrete(2),
    "a9": MultiDiscrete([2, 2]),
    "Z": Tuple([unbounded(1), Discrete(3)]),
}
VALUES = {
    "b": np.array([[5, 6]], np.float32),
    "a10": np.array([1], np.int32),
    "a9": np.array([[1, 0]], np.int32),
    "Z": (np.array([[9]], np.float32), np.array([0], np.int32)),
}


@pytest.mark.parametrize("names", [list(PARTS), list(reversed(PARTS))], ids=str)
def test_dict_parts_meet_their_own_values(names):
    # A space listed in the order of insertion and values in that of the pytree would be encoded crosswise.
    y = encoder(Dict({name: PARTS[name] for name in names}))({name: VALUES[name] for name in names})
    np.testing.assert_array_equal(y, [[9, 1, 0, 0, 0, 1, 0, 1, 1, 0, 5, 6]])  # Z, a10, a9, b


def test_tuple_parts_keep_their_order():
    y = encoder(Tuple([unbounded(2), Discrete(2)]))((VALUES["b"], VALUES["a10"]))
    np.testing.assert_array_equal(y, [[5, 6, 0, 1]])


def convolve(x, layer, stride):
    """Valid convolution of one image [H, W, channels], pixel by pixel."""
    kernel, bias = np.asarray(layer.kernel[...], np.float64), np.asarray(layer.bias[...])
    size = kernel.shape[0]
    rows, columns = ((n - size) // stride + 1 for n in x.shape[:2])
    y = np.zeros((rows, columns, kernel.shape[-1]))
    for i in range(rows):
        for j in range(columns):
            patch = x[i * stride : i * stride + size, j * stride : j * stride + size]
            y[i, j] = np.einsum("hwc,hwco->o", patch, kernel) + bias
    return np.maximum(y, 0)


@pytest.mark.parametrize(
    ("shape", "strides", "outputs"), [((6, 5, 2), (1, 1), 2 * 1 * 32), ((36, 40, 1), (4, 2, 1), 64)]
)
def test_images_go_through_convolutions(shape, strides, outputs):
    model = encoder(Box(0, 1, shape))
    x = rng.random(shape, np.float32)
    expected = x.astype(np.float64)
    for layer, stride in zip(model.parts[0].convolutions, strides, strict=True):
        layer.bias[...] = normal(rng, layer.bias.shape)
        expected = convolve(expected, layer, stride)
    y = model(x[None])
    assert y.shape == (1, outputs)
    assert_close(y[0], expected.reshape(-1), 1e-5)


def test_integer_pixels_are_scaled():
    shape = (6, 5, 2)
    pixels = rng.integers(0, 256, (B, *shape), np.uint8)
    model = encoder(Box(0, 255, shape, jnp.uint8))
    assert_close(model(pixels), model(pixels.astype(np.float32) / 255), 1e-6)


def test_the_usual_screen_has_the_usual_width():
    model = nnx.eval_shape(lambda: encoder(Box(0, 255, (84, 84, 4), jnp.uint8)))
    assert model.parts[0].outputs == 3136  # 7 x 7 x 64, Mnih et al. 2015


def test_small_boxes_are_no_images():
    x = normal(rng, (B, 4, 9, 3))
    assert_close(encoder(unbounded(4, 9, 3))(x), x.reshape(B, -1), 0)


ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_dense_layers_follow(name):
    model, x = encoder(unbounded(4), (6, 5), name), normal(rng, (B, 4))
    expected = x
    for layer in model.dense.layers:
        layer.bias[...] = normal(rng, layer.bias.shape)
        expected = ACTIVATIONS[name](expected @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...]))
    assert_close(model(x), expected, 1e-5)


def sample(space: Any, leading):
    if isinstance(space, Dict):
        return {name: sample(part, leading) for name, part in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(sample(part, leading) for part in space.spaces)
    high = np.min(space.sizes) if isinstance(space, MultiDiscrete) else getattr(space, "n", 200)
    return rng.integers(0, high, (*leading, *space.shape)).astype(space.dtype)


@pytest.mark.parametrize(
    "space",
    [unbounded(2, 3), Discrete(3), MultiDiscrete([2, 3]), Dict(PARTS), Box(0, 255, (6, 5, 2), jnp.uint8)],
    ids=["box", "discrete", "multi-discrete", "dict", "image"],
)
def test_any_leading_axes(space):
    model, xs = encoder(space, (5,)), sample(space, (T, B))
    together = model(xs)
    assert together.shape == (T, B, 5)
    for t in range(T):
        now = jax.tree.map(lambda x, t=t: x[t], xs)
        assert_close(model(now), together[t], 1e-5)
        assert_close(model(jax.tree.map(lambda x: x[1], now)), together[t, 1], 1e-5)


def test_unknown_spaces_are_one_line():
    with pytest.raises(MemrlError, match=r"^observation space is .*Space.*, expected Box, Discrete.*Tuple$"):
        encoder(Space())
