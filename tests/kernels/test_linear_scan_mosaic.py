"""The linear recurrence by Mosaic GPU: interpreted against the specification, and lowered without a GPU."""

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
from quick import precise_jit
from test_linear_scan import FLOAT32, KINDS, mixed_resets, problem

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

    (_, outputs), gradients = precise_jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(a, b, h0)
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


@edges
@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    ("shape", "constant", "reverse"),
    [((8, 3, 50), False, False), ((8, 3, 50), False, True), ((8, 3, 50), True, True), ((1, 1, 1), True, False)],
)
def test_tiles_and_blocks_hang_over_every_edge(shape, constant, reverse):
    """Two tiles, rows that the copy engine does not take unpadded, and a last block that is not full."""
    a, b, h0, weights = problem(kinds=KINDS[1], constant=constant, shape=shape)
    check(a, b, h0, mixed_resets(*shape[:2]), weights, reverse)


@pytest.mark.usefixtures("small_blocks")
def test_no_resets():
    a, b, h0, weights = problem(shape=(6, 2, 64))
    check(a, b, h0, None, weights)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("constant", [False, True])
def test_bfloat16_inputs_keep_a_float32_carry(constant):
    a, b, h0, weights = problem(constant=constant, shape=(9, 2, 128))
    a, b = (jnp.asarray(x, jnp.bfloat16) for x in (np.tanh(a), b))
    arguments = h0, mixed_resets(9), weights
    (h, h_last), gradients = values_and_gradients(interpreted(), a, b, *arguments)
    dtypes = [x.dtype for x in (h, h_last, *gradients)]
    assert dtypes == [jnp.bfloat16, jnp.float32, jnp.bfloat16, jnp.bfloat16, jnp.float32]
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    (h_expected, last_expected), expected = values_and_gradients(reference, a, b, *arguments)
    assert_close(h_last, last_expected, FLOAT32)  # a bfloat16 carry is wrong by 1e-3 here
    assert_close(h, h_expected, 2**-8)  # one rounding of the output
    assert_close(gradients, expected, 2**-6)  # h_{t-1}, the cotangents and the result are each rounded


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("reverse", "poison"), [(False, np.nan), (True, np.inf)])
def test_nothing_behind_a_reset_leaks(reverse, poison):
    T = 6
    a, b, h0, weights = problem(shape=(T, 2, 64))
    first, bad, cut = (T - 1, 3, 2) if reverse else (0, 2, 3)
    reset = np.zeros((T, 2), bool)
    reset[[first, cut]] = True
    weights[0][bad] = 0  # the loss looks only at what is clean
    clean = values_and_gradients(reference, a, b, h0, reset, weights, reverse)
    a_bad, b_bad = a.copy(), b.copy()
    b_bad[bad] = poison
    a_bad[[first, cut]] = poison  # what multiplies the cut state
    arguments = a_bad, b_bad, np.full_like(h0, poison), reset, weights, reverse
    (h, last), gradients = values_and_gradients(interpreted(), *arguments)
    outside = np.arange(T) != bad
    assert_finite((h[outside], last, gradients))
    assert_close((h[outside], last, gradients), (clean[0][0][outside], clean[0][1], clean[1]), FLOAT32)


@pytest.mark.usefixtures("small_blocks")
def test_vmap_equals_the_reference():
    problems = [problem(seed, shape=(6, 2, 64)) for seed in range(2)]
    a, b, h0 = (np.stack([p[i] for p in problems]) for i in range(3))
    weights = tuple(np.stack([p[3][i] for p in problems]) for i in range(2))
    resets = jnp.stack([mixed_resets(6), np.roll(mixed_resets(6), 1, 0)])

    def together(run):
        return lambda a, b, h0, reset, reverse: jax.vmap(functools.partial(run, reverse=reverse))(a, b, h0, reset)

    arguments = a, b, h0, resets, weights
    actual = values_and_gradients(together(interpreted()), *arguments)
    assert_close(actual, values_and_gradients(together(reference), *arguments), FLOAT32)


def lowered(shape, dtype, constant, reverse):
    """The programs of values and of gradients, with resets."""
    a, b = jnp.ones(shape[2:] if constant else shape, dtype), jnp.ones(shape, dtype)

    def loss(a, b):
        h, last = linear_scan(a, b, reset=mixed_resets(*shape[:2]), reverse=reverse, backend="mosaic")
        return jnp.sum(h.real.astype(jnp.float32)) + jnp.sum(last.real)

    return [lowered_for("cuda", f, a, b) for f in (loss, jax.grad(loss, (0, 1)))]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.complex64])
@pytest.mark.parametrize(("constant", "reverse"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("shape", [(128, 4, 64), (7, 3, 5)])
def test_lowers_for_a_gpu(shape, constant, reverse, dtype):
    """Down to the machine-independent code that a card's driver compiles: layouts, copies and their alignment."""
    for program, kernels in zip(lowered(shape, dtype, constant, reverse), (1, 2), strict=True):
        assert program.count("@mosaic_gpu_v2(") == kernels
        assert "triton" not in program
        assert "stablehlo.while" not in program


def test_a_gpu_runs_one_kernel_for_all_of_a_vmap():
    def scans(a):
        return jax.vmap(lambda a: linear_scan(a, a, backend="mosaic")[0])(a).sum()

    assert lowered_for("cuda", scans, jnp.ones((5, 7, 2, 3))).count("@mosaic_gpu_v2(") == 1


def test_refused_where_there_is_no_gpu():
    a = jnp.ones((7, 2, 3))
    message = "linear_scan: backend is 'mosaic', which needs cuda; this program is for cpu, expected 'auto' or 'xla'"
    for run in (linear_scan, jax.jit(linear_scan, static_argnames="backend")):
        with pytest.raises(MemrlError) as error:
            run(a, a, backend="mosaic")
        assert str(error.value) == message


def test_refused_where_the_gpu_is_older(monkeypatch):
    monkeypatch.setattr(backends, "compute_capability", lambda: 8.6)
    with pytest.raises(MemrlError) as error:
        lowered((7, 2, 3), jnp.float32, False, False)
    expected = "backend is 'mosaic', which needs compute capability 9.0; this GPU has 8.6, expected 'pallas' or 'auto'"
    assert str(error.value) == f"linear_scan: {expected}"


@pytest.mark.gpu
@pytest.mark.skipif((backends.compute_capability() or 0) < backends.HOPPER, reason="no GPU from Hopper on")
@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("shape", [(7, 2, 3), (129, 5, 200), (1, 1, 1), (128, 4, 64)])
def test_the_compiled_kernel_equals_the_reference(shape, constant, kinds):
    a, b, h0, weights = problem(kinds=kinds, constant=constant, shape=shape)
    reset = np.random.default_rng(1).random(shape[:2]) < 0.1
    compiled = functools.partial(linear_scan, backend="mosaic")
    for reverse in (False, True):
        actual = values_and_gradients(compiled, a, b, h0, reset, weights, reverse)
        assert_close(actual, values_and_gradients(reference, a, b, h0, reset, weights, reverse), 1e-5)
