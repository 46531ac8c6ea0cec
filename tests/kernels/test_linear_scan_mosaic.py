"""The linear recurrence by Mosaic GPU: interpreted against the specification, and lowered on a machine without a GPU."""

import functools
import importlib.util
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cores.numeric import assert_close, assert_finite, weighted_sum
from cuda import lowered_for
from jax.interpreters import mlir
from test_linear_scan import FLOAT32, KINDS, mixed_resets, problem, quick_jit

from memrl import MemrlError
from memrl.kernels import backends, linear_scan, linear_scan_mosaic

JAX = tuple(int(part) for part in jax.__version__.split(".")[:2])
edges = pytest.mark.skipif(JAX < (0, 11), reason="this version's interpreter drops blocks that hang over an edge")


@functools.cache
def interpreter() -> Any:
    """Parameters of Pallas's interpreter for GPUs; memory that nobody wrote, and what is beyond an edge, is NaN."""
    from jax._src.pallas.mosaic_gpu import core
    from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams  # public from 0.11 on

    if JAX < (0, 11):  # to the interpreter a layout means nothing, but this version's says so only by failing
        mlir.register_lowering(core.layout_cast_p, lambda _, x, **options: [x], platform="cpu")
    return InterpretGPUParams(out_of_bounds_reads="uninitialized")


@functools.cache
def interpreted():
    """`linear_scan` with the Mosaic kernels run by the interpreter: a second copy of the module."""
    spec = importlib.util.find_spec("memrl.kernels.linear_scan")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    chosen = lambda *_, mosaic, **__: functools.partial(mosaic, interpret=interpreter())  # noqa: E731
    module.by_platform = chosen  # pyright: ignore[reportAttributeAccessIssue]
    return functools.partial(module.linear_scan, backend="mosaic")


@pytest.fixture
def small_blocks(monkeypatch):
    """Several blocks, and rings used more than once, in few steps."""
    monkeypatch.setattr(linear_scan_mosaic, "STEPS", 3)
    monkeypatch.setattr(linear_scan_mosaic, "READS", 2)


def values_and_gradients(run, a, b, h0, reset, weights, reverse=False):
    def loss(a, b, h0):
        outputs = run(a, b, h0, reset, reverse=reverse)
        return weighted_sum(jnp, outputs, weights), outputs

    (_, outputs), gradients = quick_jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(a, b, h0)
    return outputs, gradients


reference = functools.partial(linear_scan, backend="reference")


def check(a, b, h0, reset, weights, reverse=False, tolerance=FLOAT32):
    arguments = a, b, h0, reset, weights, reverse
    actual = values_and_gradients(interpreted(), *arguments)
    assert_close(actual, values_and_gradients(reference, *arguments), tolerance)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("kinds", [KINDS[0], KINDS[1]])
def test_whole_tiles_equal_the_reference(kinds, constant, reverse):
    a, b, h0, weights = problem(kinds=kinds, constant=constant, shape=(9, 2, 64))
    check(a, b, h0, mixed_resets(9), weights, reverse)
