"""The recurrent cells' kernel for the GPU: which programs it is in, and what it does at the edges of its tiles."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cell_checks import FLOAT32
from cores.numeric import assert_close, normal, weighted_sum
from cuda import lowered_for
from quick import precise_jit

from memrl import MemrlError
from memrl.kernels import backends, cells, gru_scan, lstm_scan

CELLS = {"gru": (gru_scan, 3, 1), "lstm": (lstm_scan, 4, 2)}
every_cell = pytest.mark.parametrize("cell", CELLS)
has_gpu = jax.default_backend() == "gpu"


def problem(cell: str, T: int, B: int, N: int, gates: Any = jnp.float32, kernel: Any = jnp.float32) -> Any:
    """The scan's arguments but for the reset, which comes second; the gates and the kernel in the types named."""
    _, G, S = CELLS[cell]
    rng = np.random.default_rng(0)
    arguments = [jnp.asarray(normal(rng, (T, B, G * N)), gates), jnp.asarray(normal(rng, (N, G * N)) / N**0.5, kernel)]
    return [*arguments, *map(jnp.asarray, normal(rng, (S, B, N)))], jnp.asarray(rng.random((T, B)) < 0.2)


def values_and_gradients(cell: str, backend: str, arguments: Any, reset: Any) -> Any:
    def loss(arguments):
        h, last = CELLS[cell][0](*arguments, reset, backend=backend)
        outputs = [h, *jax.tree.leaves(last)]
        return weighted_sum(jnp, outputs, [jnp.cos(jnp.arange(x.size)).reshape(x.shape) for x in outputs]), outputs

    gradients, outputs = jax.grad(loss, has_aux=True)(arguments)
    return outputs, gradients


def programs(platform: str, cell: str, backend: str, arguments: Any, reset: Any) -> list[str]:
    """Of the values, and of the gradients."""

    def value(arguments):
        return CELLS[cell][0](*arguments, reset, backend=backend)

    def gradient(arguments):
        return values_and_gradients(cell, backend, arguments, reset)

    return [lowered_for(platform, f, arguments) for f in (value, gradient)]


@every_cell
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("gates", [jnp.float32, jnp.bfloat16])
def test_a_gpu_gets_one_kernel_and_every_other_platform_a_loop(cell, dtype, gates, monkeypatch):
    """Triton's compiler takes the kernels on a machine without a GPU too, so that it says here what it cannot lower."""
    monkeypatch.setattr(backends, "has_platform", lambda platform: True)
    arguments = problem(cell, 5, 20, 24, gates, dtype)
    for platform in ("cpu", "cuda", "tpu"):
        for program, kernels in zip(programs(platform, cell, "auto", *arguments), (1, 2), strict=True):
            assert ("stablehlo.while" in program) is (platform != "cuda")
            assert program.count("xla.gpu.triton") == (kernels if platform == "cuda" else 0)


@every_cell
def test_a_kernel_too_wide_for_the_chip_is_left_to_xla(cell, monkeypatch):
    monkeypatch.setattr(backends, "has_platform", lambda platform: True)
    for capability, dtype, most in ((9.0, jnp.float32, 64), (8.0, jnp.bfloat16, 128), (8.9, jnp.float32, 32)):
        monkeypatch.setattr(cells, "compute_capability", lambda capability=capability: capability)
        for N, kernels in ((most, 1), (most + 1, 0)):
            (gates, kernel, *states), _ = problem(cell, 1, 1, N, kernel=dtype)
            program = lowered_for("cuda", CELLS[cell][0], gates, kernel, *states)
            assert program.count("xla.gpu.triton") == kernels
            assert ("stablehlo.while" in program) is (kernels == 0)


@every_cell
def test_float32_products_ask_for_float32_accuracy(cell):
    """By default a GPU would round what it multiplies to TF32's 10 bits, which no machine without one shows."""
    arguments, reset = problem(cell, 2, 3, 4)
    program = str(jax.make_jaxpr(lambda a: values_and_gradients(cell, "pallas", a, reset))(arguments))
    inside = program.count("preferred_element_type=float32")
    assert program.count("TF32_TF32_F32_X3") > 0
    assert inside - program.count("TF32_TF32_F32_X3") == 1  # U's own gradient, which XLA computes


@every_cell
def test_a_gpu_runs_one_kernel_for_all_of_a_vmap(cell):
    arguments, reset = problem(cell, 3, 4, 5)
    arguments = [jnp.stack([x] * 3) for x in arguments]

    def scans(arguments):
        return jax.vmap(lambda a: CELLS[cell][0](*a, reset, backend="pallas")[0])(arguments).sum()

    for f, kernels in ((scans, 1), (jax.grad(scans), 2)):
        assert lowered_for("cuda", f, arguments).count("xla.gpu.triton") == kernels


@every_cell
@pytest.mark.parametrize(("T", "B", "N"), [(2, 17, 20), (3, 33, 16), (7, 3, 33)])
def test_tiles_hang_over_every_edge(cell, T, B, N):
    """Rows that are no multiple of a tile's, widths that are no power of two, some steps."""
    arguments, reset = problem(cell, T, B, N)
    reset = None if T == 2 else reset
    run = precise_jit(values_and_gradients, static_argnums=(0, 1))
    assert_close(run(cell, "interpret", arguments, reset), run(cell, "reference", arguments, reset), FLOAT32)


@pytest.mark.skipif(has_gpu, reason="a GPU")
@every_cell
def test_pallas_is_refused_where_there_is_no_gpu(cell):
    scan, (arguments, _) = CELLS[cell][0], problem(cell, 2, 3, 4)
    message = f"{cell}_scan: backend is 'pallas', which needs cuda; this program is for cpu, expected 'auto' or 'xla'"
    for run in (scan, jax.jit(scan, static_argnames="backend")):
        with pytest.raises(MemrlError) as error:
            run(*arguments, backend="pallas")
        assert str(error.value) == message


@every_cell
@pytest.mark.parametrize(
    ("N", "kernel", "h0", "says"),
    [
        (512, jnp.bfloat16, jnp.float32, "N = 512, expected at most 128 for a kernel in bfloat16 on this card"),
        (65, jnp.float32, jnp.float32, "N = 65, expected at most 64 for a kernel in float32 on this card"),
        (4, jnp.float16, jnp.float32, "kernel in float16, expected float32 or bfloat16"),
        (4, jnp.float32, jnp.bfloat16, "h0 in bfloat16, expected float32"),
    ],
)
def test_what_the_kernel_does_not_take(cell, N, kernel, h0, says, monkeypatch):
    monkeypatch.setattr(cells, "compute_capability", lambda: 9.0)
    (gates, kernel, *states), _ = problem(cell, 1, 1, N, kernel=kernel)
    states = [s.astype(h0) for s in states]
    for backend in ("pallas", "interpret"):
        with pytest.raises(MemrlError) as error:
            CELLS[cell][0](gates, kernel, *states, backend=backend)
        assert str(error.value) == f"{cell}_scan: backend is {backend!r} with {says}"


def test_what_its_addresses_do_not_reach():
    gates, kernel, h0 = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((2**13, 2**13, 48), (16, 48), (2**13, 16)))
    with pytest.raises(MemrlError, match=r"^gru_scan: backend is 'pallas' with gates of 3221225472 numbers, expected"):
        jax.eval_shape(functools.partial(gru_scan, backend="pallas"), gates, kernel, h0)


@pytest.mark.gpu
@pytest.mark.skipif(not has_gpu, reason="no GPU")
@every_cell
@pytest.mark.parametrize(("T", "B", "N"), [(1, 1, 1), (6, 17, 20), (128, 40, 64), (33, 5, 128)])
def test_the_compiled_kernel_equals_the_reference(cell, T, B, N):
    kernel = jnp.float32 if N <= 64 else jnp.bfloat16
    arguments = problem(cell, T, B, N, kernel=kernel)
    run = jax.jit(values_and_gradients, static_argnums=(0, 1))
    with jax.default_matmul_precision("highest"):
        expected = run(cell, "reference", *arguments)
        actual = run(cell, "pallas", *arguments)
    assert_close(actual, expected, 3e-5 if kernel == jnp.float32 else 2**-6)
