"""The linear recurrence, every back end, against a loop over time in NumPy and its finite differences."""

import functools
import importlib.util
import re
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cores.numeric import assert_close, assert_finite, exact, finite_differences, normal, weighted_sum
from cuda import lowered_for
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from jax import lax
from quick import precise_jit

from memrl import MemrlError
from memrl.kernels import backends, linear_scan

T, B, N = 7, 2, 3
FLOAT32 = 2e-6  # T roundings of 6e-8 and the growth of products of |a| <= 1.5
KINDS = [("real", "real"), ("complex", "complex"), ("real", "complex"), ("complex", "real")]  # of a, of b


@functools.cache
def off_cpu():
    """`linear_scan` as it runs off CPU: a second copy of the module, whose platform is another one."""
    spec = importlib.util.find_spec("memrl.kernels.linear_scan")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.lax = types.SimpleNamespace(**vars(lax))  # pyright: ignore[reportAttributeAccessIssue]
    module.lax.platform_dependent = lambda *args, default, **others: default(*args)
    return module.linear_scan


def call(path, *args, **kwargs):
    if path == "associative":
        return off_cpu()(*args, **kwargs, backend="xla")
    return linear_scan(*args, **kwargs, backend=path)


every_path = pytest.mark.parametrize("path", ["reference", "xla", "associative", "interpret"])


def naive(a, b, h0, reset, reverse=False):
    steps = range(len(b))
    a, h, hs = np.broadcast_to(a, b.shape), h0, np.zeros(b.shape, np.result_type(a, b, h0))
    for t in reversed(steps) if reverse else steps:
        h = a[t] * np.where(reset[t][:, None], 0, h) + b[t]
        hs[t] = h
    return hs, h


@functools.partial(precise_jit, static_argnames=("path", "reverse"))
def values_and_gradients(a, b, h0, reset, weights, *, path, reverse=False):
    def loss(a, b, h0):
        outputs = call(path, a, b, h0, reset, reverse=reverse)
        return weighted_sum(jnp, outputs, weights), outputs

    (_, outputs), gradients = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(a, b, h0)
    return outputs, gradients


def expected_of(a, b, h0, reset, weights, reverse=False):
    def loss(a, b, h0):
        return weighted_sum(np, naive(a, b, h0, reset, reverse), weights)

    a, b, h0 = exact((a, b, h0))
    return naive(a, b, h0, reset, reverse), tuple(finite_differences(loss, (a, b, h0)))


def problem(seed=0, *, kinds=("real", "real"), constant=False, shape: tuple[int, ...] = (T, B, N)) -> Any:
    """a, b, h0 and the weights of h and h_last."""
    rng = np.random.default_rng(seed)
    kind = "complex" if "complex" in kinds else "real"
    a = 0.7 * normal(rng, shape[2:] if constant else shape, kinds[0])
    b, h0 = normal(rng, shape, kinds[1]), normal(rng, shape[1:], kind)
    return a, b, h0, (normal(rng, shape, kind), normal(rng, shape[1:], kind))


def check(path, a, b, h0, reset, weights, reverse=False):
    actual = values_and_gradients(a, b, h0, reset, weights, path=path, reverse=reverse)
    assert_close(actual, expected_of(a, b, h0, reset, weights, reverse), FLOAT32)


def mixed_resets(steps=T, batch=B) -> Any:
    """At t = 0 in one row, twice in a row in the other."""
    reset = np.zeros((steps, batch), bool)
    reset[0, 0] = reset[2:4, -1] = reset[-1:, 0] = True
    return reset


@every_path
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize(("kinds", "reverse"), [*((k, False) for k in KINDS), (KINDS[0], True), (KINDS[1], True)])
def test_equals_the_loop_in_values_and_gradients(path, reverse, constant, kinds):
    a, b, h0, weights = problem(kinds=kinds, constant=constant)
    for reset in (mixed_resets(), np.zeros((T, B), bool), np.ones((T, B), bool)):
        check(path, a, b, h0, reset, weights, reverse)


@every_path
@settings(max_examples=10, deadline=None)
@given(reset=npst.arrays(bool, (T, B)), seed=st.integers(0, 99), reverse=st.booleans(), constant=st.booleans())
def test_equals_the_loop_for_any_resets(path, reset, seed, reverse, constant):
    a, b, h0, weights = problem(seed, kinds=KINDS[1], constant=constant)
    check(path, a, b, h0, reset, weights, reverse)


@every_path
@pytest.mark.parametrize("shape", [(0, 2, 3), (1, 2, 3), (1, 1, 1), (6, 1, 2), (33, 1, 1)])
def test_sizes_at_the_edge(path, shape):
    a, b, h0, weights = problem(shape=shape)
    check(path, a, b, h0, mixed_resets(*shape[:2]) if shape[0] else np.zeros((0, 2), bool), weights)


@every_path
def test_defaults_are_zero_state_and_no_reset(path):
    a, b, h0, _ = problem()
    none = np.zeros((T, B), bool)
    run = precise_jit(functools.partial(call, path))
    assert_close(run(a, b), naive(a, b, 0 * h0, none), FLOAT32)
    assert_close(run(a, b, h0), naive(a, b, h0, none), FLOAT32)
    assert_close(run(a, b, reset=mixed_resets()), naive(a, b, 0 * h0, mixed_resets()), FLOAT32)


@every_path
@pytest.mark.parametrize("constant", [False, True])
def test_bfloat16_inputs_keep_a_float32_carry(path, constant):
    a, b, h0, weights = problem(constant=constant, shape=(40, B, N))
    a, b = (jnp.asarray(x, jnp.bfloat16) for x in (np.tanh(a), b))
    reset = mixed_resets(40)
    (h, h_last), (da, db, dh0) = values_and_gradients(a, b, h0, reset, weights, path=path)
    dtypes = [x.dtype for x in (h, h_last, da, db, dh0)]
    assert dtypes == [jnp.bfloat16, jnp.float32, jnp.bfloat16, jnp.bfloat16, jnp.float32]
    (h_expected, last_expected), gradients = expected_of(a, b, h0, reset, weights)
    assert_close(h_last, last_expected, FLOAT32)  # a bfloat16 carry is wrong by 1e-3 here
    assert_close(h, h_expected, 2**-8)  # one rounding of the output
    assert_close((da, db, dh0), gradients, 2**-6)  # h_{t-1}, the cotangents and the result are each rounded


@every_path
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("kind", ["real", "complex"])
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_nothing_behind_a_reset_leaks(path, reverse, constant, kind, poison):
    a, b, h0, weights = problem(kinds=(kind, kind), constant=constant)
    first, bad, cut = (T - 1, 3, 2) if reverse else (0, 2, 3)
    reset = np.zeros((T, B), bool)
    reset[[first, cut]] = True
    weights[0][bad] = 0  # the loss looks only at what is clean
    clean = values_and_gradients(a, b, h0, reset, weights, path=path, reverse=reverse)
    b_bad = b.copy()
    b_bad[bad] = poison
    a_bad = a.copy()
    if not constant:
        a_bad[[first, cut]] = poison  # what multiplies the cut state
    (h, last), gradients = values_and_gradients(
        a_bad, b_bad, np.full_like(h0, poison), reset, weights, path=path, reverse=reverse
    )
    outside = np.arange(T) != bad
    assert_finite((h[outside], last, gradients))
    assert_close((h[outside], last, gradients), (clean[0][0][outside], clean[0][1], clean[1]), 1e-7)


@every_path
def test_vmap_equals_a_loop(path):
    problems = [problem(seed, kinds=KINDS[1]) for seed in range(3)]
    resets = [np.roll(mixed_resets(), seed, 0) for seed in range(3)]
    a, b, h0 = (np.stack([p[i] for p in problems]) for i in range(3))
    weights = tuple(np.stack([p[3][i] for p in problems]) for i in range(2))
    run = functools.partial(values_and_gradients, path=path)
    together = jax.vmap(run)(a, b, h0, np.stack(resets), weights)
    for i, (args, reset) in enumerate(zip(problems, resets, strict=True)):
        alone = run(*args[:3], reset, args[3])
        assert_close(jax.tree.map(lambda x, i=i: x[i], together), alone, FLOAT32)


def lowered(dtype, constant, reverse, platform, backend="auto"):
    """The programs of values and of gradients for `platform`, with resets."""
    a, b = jnp.ones((N,) if constant else (T, B, N), dtype), jnp.ones((T, B, N), dtype)

    def loss(a, b):
        h, last = linear_scan(a, b, reset=mixed_resets(), reverse=reverse, backend=backend)
        return jnp.sum(h.real.astype(jnp.float32)) + jnp.sum(last.real)

    return [lowered_for(platform, f, a, b) for f in (loss, jax.grad(loss, (0, 1)))]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.complex64])
@pytest.mark.parametrize(("constant", "reverse"), [(False, False), (True, False), (False, True)])
def test_every_platform_gets_its_fastest(dtype, constant, reverse, monkeypatch):
    """Triton's compiler takes the kernels on a machine without a GPU too, so that it says here what it cannot lower."""
    monkeypatch.setattr(backends, "has_platform", lambda platform: True)
    for platform in ("cpu", "cuda", "tpu"):
        value, gradient = lowered(dtype, constant, reverse, platform)
        for program, kernels in ((value, 1), (gradient, 2)):
            assert ("stablehlo.while" in program) is (platform == "cpu")
            assert program.count("xla.gpu.triton") == (kernels if platform == "cuda" else 0)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.complex64])
@pytest.mark.parametrize("reverse", [False, True])
def test_no_step_on_a_cpu_touches_the_whole_array(dtype, reverse):
    """XLA copies or converts all of an array at every step where it cannot update it in place: T times the traffic."""
    a = jnp.ones((T, B, N), dtype)

    def loss(a, b):
        h, last = linear_scan(a, 2 * b, reset=mixed_resets(), reverse=reverse, backend="xla")
        return jnp.sum(jnp.abs(h).astype(jnp.float32) ** 2) + jnp.sum(last.real)

    program = jax.jit(jax.grad(loss, (0, 1))).lower(a, a).compile().as_text()
    assert program is not None
    whole = re.compile(rf"\[{T},{B},{N}\]\S* (copy|convert)\(")
    computations = program[: program.index("\nENTRY")].split("\n}\n")
    updates = [c for c in computations if re.search(r"dynamic-update-slice\(.*while/body", c)]
    assert len(updates) >= 2  # forward and backward
    bodies = [c for c in computations if "get-tuple-element(" in c]
    assert [line for c in updates + bodies for line in c.splitlines() if whole.search(line)] == []


def test_a_gpu_runs_one_kernel_for_all_of_a_vmap():
    def scans(a):
        return jax.vmap(lambda a: linear_scan(a, a, backend="pallas")[0])(a).sum()

    program = lowered_for("cuda", scans, jnp.ones((5, T, B, N)))
    assert program.count("xla.gpu.triton") == 1


def test_pallas_is_refused_where_there_is_no_gpu():
    a = jnp.ones((T, B, N))
    assert all("xla.gpu.triton" in program for program in lowered(jnp.float32, False, False, "cuda", "pallas"))
    message = "linear_scan: backend is 'pallas', which needs cuda; this program is for cpu, expected 'auto' or 'xla'"
    for run in (linear_scan, jax.jit(linear_scan, static_argnames="backend")):
        with pytest.raises(MemrlError) as error:
            run(a, a, backend="pallas")
        assert str(error.value) == message


@pytest.mark.parametrize("shape", [(9, 3, 130), (20, 5, 40), (8, 130, 1)])
def test_tiles_hang_over_every_edge(shape):
    """More lanes than a tile in each direction, none a multiple of it, and steps that are no multiple of the unroll."""
    a, b, h0, weights = problem(kinds=KINDS[1], shape=shape)
    reset = np.random.default_rng(1).random(shape[:2]) < 0.1
    for reverse in (False, True):
        expected = values_and_gradients(a, b, h0, reset, weights, path="reference", reverse=reverse)
        actual = values_and_gradients(a, b, h0, reset, weights, path="interpret", reverse=reverse)
        assert_close(actual, expected, FLOAT32)


@pytest.mark.gpu
@pytest.mark.skipif(jax.default_backend() != "gpu", reason="no GPU")
@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("shape", [(T, B, N), (129, 5, 200), (1, 1, 1)])
def test_the_compiled_kernel_equals_the_reference(shape, constant, kinds):
    a, b, h0, weights = problem(kinds=kinds, constant=constant, shape=shape)
    reset = np.random.default_rng(1).random(shape[:2]) < 0.1
    for reverse in (False, True):
        expected = values_and_gradients(a, b, h0, reset, weights, path="reference", reverse=reverse)
        actual = values_and_gradients(a, b, h0, reset, weights, path="pallas", reverse=reverse)
        assert_close(actual, expected, 1e-5)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"b": np.ones((T, N), np.float32)}, "b has shape (7, 3)"),
        ({"a": np.ones((T, B, 1), np.float32)}, "a has shape (7, 2, 1)"),
        ({"a": np.ones((T, B, N), np.int32)}, "a has dtype int32"),
        ({"b": np.ones((T, B, N), bool)}, "b has dtype bool"),
        ({"h0": np.ones((B, N), np.int32)}, "h0 has dtype int32"),
        ({"h0": np.ones((N,), np.float32)}, "h0 has shape (3,)"),
        ({"h0": np.ones((B, N), np.complex64)}, "h0 is complex"),
        ({"reset": np.zeros((T, B), np.int32)}, "reset is int32[7, 2]"),
        ({"reset": np.zeros((B, T), bool)}, "reset is bool[2, 7]"),
        ({"backend": "xls"}, "unknown backend of linear_scan 'xls': did you mean 'xla'?"),
    ],
    ids=str,
)
def test_errors_are_one_line_and_name_the_argument(change, names):
    a, b, h0, _ = problem()
    with pytest.raises(MemrlError) as error:
        linear_scan(**({"a": a, "b": b, "h0": h0, "reset": mixed_resets()} | change))
    message = str(error.value)
    assert names in message
    assert "linear_scan" in message
    assert "\n" not in message
