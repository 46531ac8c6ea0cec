"""The gated delta rule against its equation."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cell_checks import mixed_resets
from chunked_checks import ChunkedChecks
from cores.numeric import assert_close, exact, normal
from cuda import lowered_for
from quick import precise_jit

from memrl import MemrlError
from memrl.kernels import backends, gated_delta_rule, gated_delta_rule_triton
from memrl.kernels.chunks import inverse_of_unit_lower


class DeltaRule(ChunkedChecks):
    kernel = staticmethod(gated_delta_rule)
    n: int | None = None  # Householder steps, or no axis for them

    def sequences(self, rng, steps, batch, sizes):
        heads, K, V = sizes
        leading = () if self.n is None else (self.n,)
        k = normal(rng, (*leading, steps, batch, heads, K))
        return {
            "q": normal(rng, (steps, batch, heads, K)),
            "k": k / np.linalg.norm(k, axis=-1, keepdims=True),
            "v": normal(rng, (*leading, steps, batch, heads, V)),
            "beta": rng.uniform(0, 2, (*leading, steps, batch, heads)).astype(np.float32),
            "log_decay": -np.abs(normal(rng, (steps, batch, heads))),
        }

    def step(self, s, t, sequences):
        s = np.exp(sequences["log_decay"][t])[..., None, None] * s
        for i in range(self.n or 1):
            k, v, beta = (sequences[name] if self.n is None else sequences[name][i] for name in ("k", "v", "beta"))
            k, v, beta = k[t], v[t], beta[t][..., None, None]
            identity = np.eye(k.shape[-1])
            s = (identity - beta * k[..., :, None] * k[..., None, :]) @ s + beta * k[..., :, None] * v[..., None, :]
        return s

    def at_step(self, x, name, t):
        return x[:, t] if self.n is not None and name in ("k", "v", "beta") else x[t]

    def after(self, sequences, t):
        by_step = {"k", "v", "beta"} if self.n is not None else set()
        return {name: np.asarray(x)[:, t:] if name in by_step else np.asarray(x)[t:] for name, x in sequences.items()}


class TestOneStep(DeltaRule):
    backends = ("reference", "xla", "interpret")

    def test_no_decay_is_the_default(self):
        sequences, s0, _ = self.problem()
        del sequences["log_decay"]
        actual = precise_jit(gated_delta_rule)(**sequences, s0=s0)
        zeros = {"log_decay": np.zeros(sequences["beta"].shape)}
        assert_close(actual, self.naive(sequences | zeros, s0, np.zeros((7, 2), bool)), 1e-5)

    @pytest.mark.parametrize(("beta", "tolerance"), [(0.5, 2e-6), (1.0, 2e-6), (2.0, 2e-4)])
    def test_one_key_all_the_time(self, backend, beta, tolerance):
        """The system's powers grow like binomials here, so that a series of them has no digit left.

        With beta = 2 the state's component along the key changes sign at every step, and what the steps of a chunk
        write cancels.
        """
        sequences, s0, weights = self.problem(steps=128)
        sequences["k"] = np.broadcast_to(sequences["k"][:1], sequences["k"].shape)
        sequences["beta"] = np.full_like(sequences["beta"], beta)
        sequences["log_decay"] = np.zeros_like(sequences["log_decay"])
        none = np.zeros((128, 2), bool)
        actual, _ = self.run(sequences, s0, weights, none, backend=backend, chunk_size=64)
        assert_close(actual, self.naive(exact(sequences), s0, none), tolerance)

    @pytest.mark.parametrize(("rows", "n"), [(16, None), (64, None), (64, 3)])
    def test_kernels_hang_over_every_edge(self, rows, n, monkeypatch):
        """More columns than a tile, chunks of several blocks, and no size that is a power of two."""
        monkeypatch.setattr(gated_delta_rule_triton, "MAX_ROWS", rows)
        monkeypatch.setattr(gated_delta_rule_triton, "STATE", 1)
        monkeypatch.setattr(self, "n", n)
        sequences, s0, weights = self.problem(steps=70 + rows, sizes=(2, 5, 18))
        reset = np.random.default_rng(0).random((70 + rows, 2)) < 0.05
        expected = self.run(sequences, s0, weights, reset, backend="reference", chunk_size=1)
        assert_close(self.run(sequences, s0, weights, reset, backend="interpret", chunk_size=50), expected, 1e-5)

    def test_auto_on_a_cpu_beside_a_gpu(self, monkeypatch):
        """A backward pass of its own, with gradients in the types of the arguments."""
        monkeypatch.setattr(backends, "has_platform", lambda platform: True)
        self.check("auto", self.problem(), mixed_resets(7, 2))
        self.test_bfloat16_inputs_keep_a_float32_state("auto")


class TestThreeSteps(DeltaRule):
    n = 3

    @pytest.mark.parametrize("reset", [mixed_resets(7, 2), np.zeros((7, 2), bool)], ids=["mixed", "none"])
    def test_the_kernels_equal_the_loop(self, reset):
        """Chunks of 12 rows; all else is the same as with one step."""
        self.check("interpret", self.problem(), reset)


@pytest.mark.slow
class TestOneStepWithAnAxis(DeltaRule):
    n = 1


def problem(dtype: Any = jnp.float32, n: int | None = None) -> Any:
    """Sequences of no round size."""
    checks = DeltaRule()
    checks.n = n
    sequences, _, _ = checks.problem(steps=21, sizes=(3, 18, 20))
    return {name: jnp.asarray(x, dtype) for name, x in sequences.items()}


def total(sequences: dict, backend: str) -> Any:
    o, s_last = gated_delta_rule(**sequences, reset=jnp.asarray(mixed_resets(21, 2)), backend=backend)
    return jnp.sum(o.astype(jnp.float32)) + jnp.sum(s_last)


@pytest.mark.parametrize("n", [None, 3])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_kernels_lower_for_a_gpu(dtype, n):
    """Triton's compiler takes them on a machine without one too, so that it says here what it cannot lower."""
    value = functools.partial(total, backend="pallas")
    for f, kernels in ((value, 1), (jax.grad(value), 2)):
        assert lowered_for("cuda", f, problem(dtype, n)).count("xla.gpu.triton") == kernels


def test_every_platform_gets_its_fastest(monkeypatch):
    monkeypatch.setattr(backends, "has_platform", lambda platform: True)
    gradient = jax.grad(functools.partial(total, backend="auto"))
    for platform, kernels in (("cpu", 0), ("cuda", 2), ("tpu", 0)):
        program = lowered_for(platform, gradient, problem())
        assert program.count("xla.gpu.triton") == kernels
        assert ("stablehlo.while" in program) is (kernels == 0)


def test_auto_without_a_gpu_is_xla():
    auto, xla = (str(jax.make_jaxpr(jax.grad(functools.partial(total, backend=b)))(problem())) for b in ("auto", "xla"))
    assert auto == xla


def test_a_gpu_runs_one_kernel_for_all_of_a_vmap(monkeypatch):
    monkeypatch.setattr(backends, "has_platform", lambda platform: True)

    def totals(sequences):
        return jax.vmap(functools.partial(total, backend="auto"))(sequences).sum()

    many = jax.tree.map(lambda x: jnp.stack([x] * 5), problem())
    for platform, kernels in (("cuda", 2), ("cpu", 0)):
        assert lowered_for(platform, jax.grad(totals), many).count("xla.gpu.triton") == kernels


def test_no_product_of_the_kernels_drops_digits():
    """Left alone, Triton multiplies in TF32, which has 10 bits; the interpreter would not show it."""
    gradient = jax.grad(functools.partial(total, backend="pallas"))
    program = str(jax.make_jaxpr(gradient)(problem()))
    assert program.count("dot_general[") == program.count("precision=TF32_TF32_F32_X3") > 0


def test_pallas_is_refused_where_there_is_no_gpu():
    message = (
        "gated_delta_rule: backend is 'pallas', which needs cuda; this program is for cpu, expected 'auto' or 'xla'"
    )
    for run in (gated_delta_rule, jax.jit(gated_delta_rule, static_argnames="backend")):
        with pytest.raises(MemrlError) as error:
            run(**problem(), backend="pallas")
        assert str(error.value) == message


@pytest.mark.gpu
@pytest.mark.skipif(jax.default_backend() != "gpu", reason="no GPU")
@pytest.mark.parametrize("n", [None, 3])
@pytest.mark.parametrize(("steps", "sizes"), [(7, (1, 3, 2)), (129, (2, 64, 64)), (50, (3, 17, 200)), (1, (1, 1, 1))])
def test_the_compiled_kernels_equal_the_reference(steps, sizes, n):
    checks = DeltaRule()
    checks.n = n
    sequences, s0, weights = checks.problem(steps=steps, sizes=sizes)
    reset = np.random.default_rng(1).random((steps, 2)) < 0.1
    with jax.default_matmul_precision("highest"):
        expected = checks.run(sequences, s0, weights, reset, backend="reference", chunk_size=1)
        assert_close(checks.run(sequences, s0, weights, reset, backend="pallas", chunk_size=64), expected, 1e-5)


@pytest.mark.parametrize(
    ("argument", "value", "says"),
    [
        ("k", np.zeros((7, 3), np.float32), "k has shape (7, 3)"),
        ("k", np.zeros((7, 2, 1, 4), np.float32), "k has shape (7, 2, 1, 4), expected (7, 2, 1, 3)"),
        ("v", np.zeros((3, 7, 2, 1, 2), np.float32), "v has shape (3, 7, 2, 1, 2), expected rank 4 like k"),
        ("beta", np.zeros((7, 2), np.float32), "beta has shape (1, 7, 2), expected (1, 7, 2, 1)"),
        ("beta", np.zeros((7, 2, 1), np.int32), "beta has dtype int32"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors_of_its_own_arguments(argument, value, says):
    sequences, _, _ = TestOneStep().problem()
    with pytest.raises(MemrlError) as error:
        gated_delta_rule(**(sequences | {argument: value}))
    assert says in str(error.value)


@pytest.mark.parametrize("size", [1, 5, 16, 17, 48, 100])
def test_inverse_of_unit_lower_triangular_matrices(size):
    rng = np.random.default_rng(size)
    lower = np.tril(rng.uniform(-1, 1, (2, 3, size, size)), -1) / np.sqrt(size)
    inverse = np.asarray(inverse_of_unit_lower(jnp.asarray(lower, jnp.float32)))
    assert_close(inverse, np.linalg.inv(np.eye(size) + lower), 1e-5)
