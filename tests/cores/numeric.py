"""Comparing trees of arrays, and gradients of NumPy functions by finite differences."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def assert_close(actual: Any, expected: Any, tolerance: float, what: str = "") -> None:
    """Every leaf within `tolerance` of the expected leaf's largest magnitude (of 1e-3 where that is smaller).

    Infinities and NaN must be in the same places.
    """
    paths, structure = jax.tree.flatten_with_path(expected)
    assert jax.tree.structure(actual) == structure
    for (path, leaf), got in zip(paths, jax.tree.leaves(actual), strict=True):
        name = what + jax.tree_util.keystr(path)
        got, leaf = _exact(got), _exact(leaf)
        assert got.shape == leaf.shape, f"{name}: {got.shape} is not {leaf.shape}"
        finite = np.isfinite(leaf)
        scale = max(1e-3, np.abs(leaf[finite]).max(initial=0))
        np.testing.assert_allclose(got, leaf, rtol=0, atol=tolerance * scale, err_msg=name)


def assert_finite(tree: Any) -> None:
    for path, leaf in jax.tree.leaves_with_path(tree):
        assert np.isfinite(_exact(leaf)).all(), jax.tree_util.keystr(path)


def _exact(x: Any) -> np.ndarray:
    x = np.asarray(x)
    return x.astype(np.complex128 if np.iscomplexobj(x) else np.float64)


def exact(tree: Any) -> Any:
    """Float leaves as float64, complex ones as complex128, all as NumPy arrays of their own."""
    return jax.tree.map(lambda x: _exact(x) if jnp.issubdtype(x.dtype, jnp.inexact) else np.array(x), tree)


def normal(rng: np.random.Generator, shape: Sequence[int], kind: str = "real") -> Any:
    """Standard normal numbers, float32, or complex64 when `kind` is "complex"."""
    x = rng.normal(size=shape).astype(np.float32)
    return x + 1j * rng.normal(size=shape).astype(np.float32) if kind == "complex" else x


def weighted_sum(xp: Any, leaves: Sequence[Any], weights: Sequence[Any]) -> Any:
    """A real loss that sees every real and imaginary part; `xp` is numpy or jax.numpy."""
    return sum(xp.sum(w.real * x.real + w.imag * x.imag) for x, w in zip(leaves, weights, strict=True))


def finite_differences(loss: Callable[..., float], arguments: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The gradient of `loss` by central differences, as JAX defines it: d/dx - i d/dy for complex x + iy."""
    arguments = [_exact(x) for x in arguments]
    gradients = []
    for x in arguments:
        gradient, flat = np.zeros_like(x), x.reshape(-1)
        for i in range(x.size):
            value = flat[i]

            def at(displaced, flat=flat, i=i):
                flat[i] = displaced
                return loss(*arguments)

            gradient.flat[i] = (at(value + EPSILON) - at(value - EPSILON)) / (2 * EPSILON)
            if np.iscomplexobj(x):
                gradient.flat[i] -= 1j * (at(value + 1j * EPSILON) - at(value - 1j * EPSILON)) / (2 * EPSILON)
            flat[i] = value
        gradients.append(gradient)
    return gradients


EPSILON = 1e-5  # truncation and rounding both leave about 1e-10
