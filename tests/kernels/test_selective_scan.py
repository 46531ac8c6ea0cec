"""Mamba's selective scan against a loop in NumPy and the finite differences of that loop."""

import functools
import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cell_checks import mixed_resets
from cores.numeric import assert_close, assert_finite, exact, finite_differences, normal, weighted_sum
from cuda import lowered_for
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from quick import precise_jit

from memrl import MemrlError
from memrl.kernels import backends, selective_scan, selective_scan_triton

module = importlib.import_module("memrl.kernels.selective_scan")
T, B, D, N = 7, 2, 3, 2
CHUNK, HELD = module.CHUNK, selective_scan_triton.HELD
FLOAT32 = 5e-6
NONE, ALL = np.zeros((T, B), bool), np.ones((T, B), bool)
every_backend = pytest.mark.parametrize("backend", ["reference", "xla", "interpret"])


@pytest.fixture(autouse=True, scope="module")
def short_chunks():
    """So that 7 steps are several chunks and a tail; and what the interpreter makes of a chunk compiles faster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", 4)
        patch.setattr(selective_scan_triton, "HELD", 2)
        yield


@pytest.fixture
def long_chunks(monkeypatch):
    """Those that are used."""
    monkeypatch.setattr(module, "CHUNK", CHUNK)
    monkeypatch.setattr(selective_scan_triton, "HELD", HELD)


def problem(seed=0, steps=T, batch=B, D=D, N=N) -> Any:
    """The arguments by name, and the weights of the outputs in the loss."""
    rng = np.random.default_rng(seed)
    arguments = {
        "x": normal(rng, (steps, batch, D)),
        "dt": rng.uniform(0.1, 1.5, (steps, batch, D)).astype(np.float32),
        "A": -rng.uniform(0.1, 2, (D, N)).astype(np.float32),
        "B": normal(rng, (steps, batch, N)),
        "C": normal(rng, (steps, batch, N)),
        "D": normal(rng, (D,)),
        "h0": normal(rng, (batch, D, N)),
    }
    return arguments, (normal(rng, (steps, batch, D)), normal(rng, (batch, D, N)))


def naive(x, dt, A, B, C, D, h0, reset) -> Any:
    h, y = h0, np.zeros(x.shape)
    for t in range(len(x)):
        h = np.where(reset[t][:, None, None], 0, h)
        h = np.exp(dt[t][..., None] * A) * h + (dt[t] * x[t])[..., None] * B[t][:, None, :]
        y[t] = np.einsum("bdn,bn->bd", h, C[t]) + D * x[t]
    return y, h


@functools.partial(precise_jit, static_argnames="backend")
def run(arguments, weights, reset, *, backend):
    def loss(arguments):
        outputs = selective_scan(**arguments, reset=reset, backend=backend)
        return weighted_sum(jnp, outputs, weights), outputs

    (_, outputs), gradients = jax.value_and_grad(loss, has_aux=True)(arguments)
    return outputs, gradients


def check(backend, arguments, weights, reset):
    names = list(arguments)

    def loss(*values):
        return weighted_sum(np, naive(*values, reset=reset), weights)

    gradients = dict(zip(names, finite_differences(loss, list(arguments.values())), strict=True))
    actual = run(arguments, weights, reset, backend=backend)
    assert_close(actual, (naive(**exact(arguments), reset=reset), gradients), FLOAT32)


@every_backend
@pytest.mark.parametrize("reset", [mixed_resets(T, B), NONE, ALL], ids=["mixed", "none", "all"])
def test_equals_the_loop_in_values_and_gradients(backend, reset):
    arguments, weights = problem()
    check(backend, arguments, weights, reset)


@every_backend
@settings(max_examples=10, deadline=None)
@given(reset=npst.arrays(bool, (T, B)), seed=st.integers(0, 99))
def test_equals_the_loop_for_any_resets(backend, reset, seed):
    arguments, weights = problem(seed)
    check(backend, arguments, weights, reset)


@every_backend
@pytest.mark.parametrize(("steps", "batch"), [(0, 2), (1, 2), (1, 1), (5, 1)])
def test_sizes_at_the_edge(backend, steps, batch):
    arguments, weights = problem(steps=steps, batch=batch)
    check(backend, arguments, weights, mixed_resets(5, batch)[:steps])


@pytest.mark.parametrize("steps", [16, 17, 40])
def test_the_chunks_that_are_used(steps, long_chunks):
    arguments, weights = problem(steps=steps)
    reset = np.random.default_rng(0).random((steps, B)) < 0.1
    expected = run(arguments, weights, reset, backend="reference")
    assert_close(run(arguments, weights, reset, backend="xla"), expected, 1e-5)


@every_backend
def test_defaults_are_zero_state_no_skip_and_no_reset(backend):
    arguments, _ = problem()
    del arguments["D"], arguments["h0"]
    zeros = {"D": np.zeros(D), "h0": np.zeros((B, D, N))}
    actual = precise_jit(functools.partial(selective_scan, backend=backend))(**arguments)
    assert_close(actual, naive(**arguments, **zeros, reset=NONE), FLOAT32)


@every_backend
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_nothing_before_a_reset_leaks(backend, poison):
    arguments, weights = problem()
    reset = NONE.copy()
    reset[[0, 3]] = True
    weights[0][2] = 0  # the loss looks only at what is clean
    (_, clean_last), clean_gradients = run(arguments, weights, reset, backend=backend)
    bad = {**arguments, "x": arguments["x"].copy(), "h0": np.full_like(arguments["h0"], poison)}
    bad["x"][2] = poison
    (y, h_last), gradients = run(bad, weights, reset, backend=backend)
    assert_finite((y[:2], y[3:], h_last))
    assert_close(h_last, clean_last, 1e-7)
    for name in ("x", "dt", "B", "C"):
        assert_close(np.asarray(gradients[name])[3:], np.asarray(clean_gradients[name])[3:], 1e-7)
    assert not np.asarray(gradients["h0"]).any()


@every_backend
def test_bfloat16_inputs_keep_a_float32_state(backend):
    arguments, weights = problem(steps=40)
    arguments = {name: jnp.asarray(x, jnp.float32 if name == "h0" else jnp.bfloat16) for name, x in arguments.items()}
    (y, h_last), gradients = run(arguments, weights, mixed_resets(40, B), backend=backend)
    assert y.dtype == gradients["x"].dtype == jnp.bfloat16
    assert h_last.dtype == gradients["h0"].dtype == jnp.float32
    expected, last = naive(**exact(arguments), reset=mixed_resets(40, B))
    assert_close(h_last, last, FLOAT32)
    assert_close(y, expected, 2**-8)  # one rounding of the output


@pytest.mark.parametrize("backend", ["xla", "interpret"])
def test_vmap_equals_a_loop(backend):
    problems = [(*problem(seed), np.roll(mixed_resets(T, B), seed, 0)) for seed in range(3)]
    together = jax.vmap(functools.partial(run, backend=backend))(*jax.tree.map(lambda *xs: np.stack(xs), *problems))
    for i, one in enumerate(problems):
        assert_close(jax.tree.map(lambda x, i=i: x[i], together), run(*one, backend=backend), FLOAT32)


@pytest.mark.parametrize(("channels", "states"), [(45, 5), (32, 1), (33, 8)])
def test_tiles_hang_over_every_edge(channels, states):
    """More channels than a tile and no multiple of it, states that are no power of two or one alone; an even end."""
    arguments, weights = problem(steps=4, D=channels, N=states)
    reset = mixed_resets(4, B)
    expected = run(arguments, weights, reset, backend="reference")
    assert_close(run(arguments, weights, reset, backend="interpret"), expected, FLOAT32)


def test_what_is_not_finite_stays_in_its_environment_and_its_channel():
    arguments, weights = problem(D=3, N=3)  # tiles with room for a fourth of each
    clean, _ = run(arguments, weights, NONE, backend="interpret")
    arguments["x"] = arguments["x"].copy()
    arguments["x"][1, 0, 2] = np.inf
    (y, h_last), _ = run(arguments, weights, NONE, backend="interpret")
    y, h_last = np.array(y), np.array(h_last)
    assert not np.isfinite(y[1:, 0, 2]).any()
    assert not np.isfinite(h_last[0, 2]).any()
    y[1:, 0, 2] = clean[0][1:, 0, 2]
    h_last[0, 2] = clean[1][0, 2]
    assert_close((y, h_last), clean, 1e-7)


def lowered(dtype, platform, backend="auto", sizes=(T, B, D, N)):
    """The programs of values and of gradients for `platform`, with resets and the chunks that are used."""
    steps, batch, channels, states = sizes
    arguments, _ = problem(steps=steps, batch=batch, D=channels, N=states)
    arguments = {name: jnp.asarray(x, dtype) for name, x in arguments.items()}

    def loss(arguments):
        y, h_last = selective_scan(**arguments, reset=jnp.asarray(mixed_resets(steps, batch)), backend=backend)
        return jnp.sum(y.astype(jnp.float32)) + jnp.sum(h_last)

    return [lowered_for(platform, f, arguments) for f in (loss, jax.grad(loss))]


@pytest.mark.parametrize("sizes", [(16, B, 64, 16), (13, 3, 45, 5)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_gpu_gets_the_kernels(dtype, sizes, long_chunks, monkeypatch):
    """Triton's dialect takes the kernels on a machine without a GPU too: it says here what cannot be lowered."""
    monkeypatch.setattr(backends, "has_platform", lambda platform: True)
    for program, kernels in zip(lowered(dtype, "cuda", sizes=sizes), (1, 2), strict=True):
        assert program.count("xla.gpu.triton") == kernels
        assert "stablehlo.while" not in program


def test_a_cpu_gets_xla(monkeypatch):
    monkeypatch.setattr(backends, "has_platform", lambda platform: True)
    assert all("stablehlo.while" in program for program in lowered(jnp.float32, "cpu"))


def test_a_gpu_runs_one_kernel_for_all_of_a_vmap():
    arguments, _ = problem()
    many = jax.tree.map(lambda x: jnp.stack([x] * 5), arguments)

    def scans(many):
        return jax.vmap(lambda one: selective_scan(**one, backend="pallas")[0])(many).sum()

    assert lowered_for("cuda", scans, many).count("xla.gpu.triton") == 1
    assert lowered_for("cuda", jax.grad(scans), many).count("xla.gpu.triton") == 2


def test_pallas_is_refused_where_there_is_no_gpu():
    arguments, _ = problem()
    with pytest.raises(MemrlError) as error:
        selective_scan(**arguments, backend="pallas")
    assert str(error.value) == (
        "selective_scan: backend is 'pallas', which needs cuda; this program is for cpu, expected 'auto' or 'xla'"
    )


@pytest.mark.gpu
@pytest.mark.skipif(jax.default_backend() != "gpu", reason="no GPU")
@pytest.mark.parametrize("sizes", [(T, B, D, N), (129, 5, 45, 5), (64, 8, 128, 16), (1, 1, 1, 1)])
def test_the_compiled_kernel_equals_the_reference(sizes, long_chunks):
    steps, batch, channels, states = sizes
    arguments, weights = problem(steps=steps, batch=batch, D=channels, N=states)
    reset = np.random.default_rng(1).random((steps, batch)) < 0.1
    expected = run(arguments, weights, reset, backend="reference")
    assert_close(run(arguments, weights, reset, backend="pallas"), expected, 1e-5)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_lowers_for_other_platforms(platform):
    arguments, weights = problem()
    traced = run.trace(arguments, weights, NONE, backend="xla")
    assert "stablehlo.while" in traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize(
    ("argument", "value", "says"),
    [
        ("x", np.zeros((T, D), np.float32), "x has shape (7, 3)"),
        ("x", np.zeros((T, B, D), np.int32), "x has dtype int32"),
        ("dt", np.zeros((T, B, 1), np.float32), "dt has shape (7, 2, 1)"),
        ("A", np.zeros((N, D), np.float32), "A has shape (2, 3), expected [3, N]"),
        ("B", np.zeros((T, B, D), np.float32), "B has shape (7, 2, 3)"),
        ("C", np.zeros((T, B, D), np.float32), "C has shape (7, 2, 3)"),
        ("D", np.zeros((N,), np.float32), "D has shape (2,)"),
        ("h0", np.zeros((B, N, D), np.float32), "h0 has shape (2, 2, 3)"),
        ("reset", np.zeros((B, T), bool), "reset is bool[2, 7]"),
        ("backend", "xal", "did you mean 'xla'?"),
        ("backend", "newton", "backend 'newton' is not built"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors_are_one_line_and_name_the_argument(argument, value, says):
    arguments, _ = problem()
    with pytest.raises(MemrlError) as error:
        selective_scan(**(arguments | {"reset": NONE} | {argument: value}))
    message = str(error.value)
    assert says in message
    assert "selective_scan" in message
    assert "\n" not in message
