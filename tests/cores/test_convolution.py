"""The short convolution with its carried inputs, against a loop; its contract is tested with the cores that use it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cores.numeric import assert_close, assert_finite, normal
from flax import nnx

from memrl.cores.convolution import ShortConvolution, steps_since_reset

T, B, D = 9, 2, 3


def problem(width) -> Any:
    rng = np.random.default_rng(width)
    convolution = ShortConvolution(D, width, rngs=nnx.Rngs(0))
    assert convolution.bias is not None
    convolution.bias[...] = jnp.asarray(normal(rng, (D,)))
    resets = np.zeros((T, B), bool)
    resets[[0, 4, 5], 0] = resets[7, 1] = True
    return convolution, normal(rng, (B, width - 1, D)), normal(rng, (T, B, D)), resets


def naive(convolution, state, xs, resets):
    kernel, bias, ys = np.asarray(convolution.kernel[...]), np.asarray(convolution.bias[...]), np.zeros_like(xs)
    past = [list(row) for row in state]
    for t in range(len(xs)):
        for b in range(B):
            if resets[t, b]:
                past[b] = [np.zeros(D)] * len(past[b])
            past[b] = [*past[b], xs[t, b]]
            ys[t, b] = bias + sum(w * x for w, x in zip(kernel, past[b][::-1], strict=True))
            past[b] = past[b][1:]
    return np.reshape(past, state.shape), ys


@pytest.mark.parametrize("width", [1, 2, 4, 12])
def test_equals_the_loop(width):
    convolution, state, xs, resets = problem(width)
    assert_close(convolution(state, xs, resets), naive(convolution, state, xs, resets), 1e-6)


@pytest.mark.parametrize("cuts", [range(1, T), [2, 5], [4]])
def test_pieces_equal_the_whole(cuts):
    convolution, state, xs, resets = problem(4)
    whole = convolution(state, xs, resets)
    ys = []
    for start, end in zip([0, *cuts], [*cuts, T], strict=True):
        state, y = convolution(state, xs[start:end], resets[start:end])
        ys.append(y)
    assert_close((state, jnp.concatenate(ys)), whole, 1e-6)


def test_nothing_leaks_over_a_reset():
    convolution, state, xs, resets = problem(4)
    resets[4] = True
    clean = convolution(state, xs, resets)
    xs[:4], state[:] = np.nan, np.nan

    def loss(state, xs):
        last, ys = convolution(state, xs, resets)
        return jnp.sum(ys[4:]) + jnp.sum(last)

    last, ys = convolution(state, xs, resets)
    assert_close((last, ys[4:]), (clean[0], clean[1][4:]), 0)
    gradients = jax.grad(loss, (0, 1))(state, xs)
    assert_finite(gradients)
    assert (np.asarray(gradients[0]) == 0).all()
    assert (np.asarray(gradients[1][:4]) == 0).all()


def test_steps_since_reset():
    resets = jnp.array([0, 1, 0, 0, 0, 1, 1, 0], bool)[:, None]
    assert steps_since_reset(resets, at_most=2)[:, 0].tolist() == [2, 0, 1, 2, 2, 0, 0, 1]
