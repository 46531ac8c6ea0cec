"""The gated delta rule against its equation."""

import jax.numpy as jnp
import numpy as np
import pytest
from cell_checks import quick_jit
from chunked_checks import ChunkedChecks
from cores.numeric import assert_close, exact, normal

from memrl import MemrlError
from memrl.kernels import gated_delta_rule
from memrl.kernels.chunks import inverse_of_unit_lower


class DeltaRule(ChunkedChecks):
    kernel = staticmethod(gated_delta_rule)
    backends = ("reference", "xla", "interpret")
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
    def test_no_decay_is_the_default(self):
        sequences, s0, _ = self.problem()
        del sequences["log_decay"]
        actual = quick_jit(gated_delta_rule)(**sequences, s0=s0)
        zeros = {"log_decay": np.zeros(sequences["beta"].shape)}
        assert_close(actual, self.naive(sequences | zeros, s0, np.zeros((7, 2), bool)), 1e-5)

    @pytest.mark.parametrize(("beta", "tolerance"), [(0.5, 2e-6), (1.0, 2e-6), (2.0, 2e-4)])
    def test_one_key_all_the_time(self, beta, tolerance):
        """The system's powers grow like binomials here, so that a series of them has no digit left.

        With beta = 2 the state's component along the key changes sign at every step, and what the steps of a chunk
        write cancels.
        """
        sequences, s0, _ = self.problem(steps=128)
        sequences["k"] = np.broadcast_to(sequences["k"][:1], sequences["k"].shape)
        sequences["beta"] = np.full_like(sequences["beta"], beta)
        sequences["log_decay"] = np.zeros_like(sequences["log_decay"])
        expected = self.naive(exact(sequences), s0, np.zeros((128, 2), bool))
        assert_close(quick_jit(gated_delta_rule)(**sequences, s0=s0), expected, tolerance)


class TestThreeSteps(DeltaRule):
    n = 3


class TestOneStepWithAnAxis(DeltaRule):
    n = 1


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
