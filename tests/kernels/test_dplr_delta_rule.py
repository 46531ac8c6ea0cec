"""The delta rule with a decay for each channel against its equation."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cell_checks import mixed_resets
from chunked_checks import ChunkedChecks
from cores.numeric import assert_close, exact, normal
from jaxprs import equations
from quick import precise_jit

from memrl import MemrlError
from memrl.kernels import dplr_delta_rule, gated_delta_rule

LEAST = -0.61  # RWKV-7's


@functools.wraps(dplr_delta_rule)
def kernel(*arguments, least_log_decay=LEAST, **options):
    return dplr_delta_rule(*arguments, least_log_decay=least_log_decay, **options)


class DPLR(ChunkedChecks):
    kernel = staticmethod(kernel)
    least = LEAST

    def sequences(self, rng, steps, batch, sizes):
        heads, K, V = sizes
        shape = (steps, batch, heads, K)
        kappa = normal(rng, shape)
        kappa = kappa / np.linalg.norm(kappa, axis=-1, keepdims=True)
        return {
            "q": normal(rng, shape),
            "k": normal(rng, shape),
            "v": normal(rng, (steps, batch, heads, V)),
            "a": -kappa,
            "b": kappa * rng.uniform(0, 1, shape).astype(np.float32),
            "log_decay": rng.uniform(self.least, 0, shape).astype(np.float32),
        }

    def step(self, s, t, sequences):
        k, v, a, b, log_decay = (sequences[name][t] for name in ("k", "v", "a", "b", "log_decay"))
        transition = np.exp(log_decay)[..., None] * np.eye(k.shape[-1]) + b[..., :, None] * a[..., None, :]
        return transition @ s + k[..., :, None] * v[..., None, :]


class TestRWKV(DPLR):
    @pytest.mark.parametrize("chunk_size", [16, 64])
    def test_one_key_all_the_time(self, chunk_size):
        """Where the system's powers are largest: what is held under the key is replaced at every step."""
        sequences, s0, weights = self.problem(steps=128)
        for name in ("k", "a", "b", "log_decay"):
            sequences[name] = np.broadcast_to(sequences[name][:1], sequences[name].shape)
        sequences["b"] = -sequences["a"]
        none = np.zeros((128, 2), bool)
        actual, _ = self.run(sequences, s0, weights, none, backend="xla", chunk_size=chunk_size)
        assert_close(actual, self.naive(exact(sequences), s0, none), 1e-5)

    @pytest.mark.parametrize("log_decay", [0.0, LEAST])
    def test_decays_at_their_bounds(self, backend, log_decay):
        """All along a chunk: the factors of a pair are as large and small as they get, up to exp(39)."""
        sequences, s0, weights = self.problem(steps=128)
        sequences["log_decay"] = np.full_like(sequences["log_decay"], log_decay)
        reset = np.random.default_rng(0).random((128, 2)) < 0.03
        actual, gradients = self.run(sequences, s0, weights, reset, backend=backend, chunk_size=64)
        assert_close(actual, self.naive(exact(sequences), exact(s0), reset), 1e-5)
        _, expected = self.run(sequences, s0, weights, reset, backend="reference", chunk_size=64)
        assert_close(gradients, expected, 1e-4)


@pytest.mark.slow
class TestStrongDecays(DPLR):
    """Chunks of 12 steps."""

    kernel = staticmethod(functools.wraps(dplr_delta_rule)(functools.partial(kernel, least_log_decay=-5.0)))
    least = -5.0


def arguments(steps: int, sizes: tuple[int, int, int] = (1, 3, 2)) -> Any:
    sequences, s0, _ = DPLR().problem(steps=steps, sizes=sizes)
    return sequences | {"s0": s0, "reset": mixed_resets(steps, 2)}


@pytest.mark.parametrize("bound", [-0.25, -1.0, -7.0, -61.0, -1e4])
@pytest.mark.parametrize("backend", ["reference", "xla"])
def test_decays_below_the_bound_count_as_the_bound(backend, bound):
    """However strong: chunks grow shorter, nothing overflows, and both back ends mean the same."""
    given = arguments(70)
    given["log_decay"] = given["log_decay"] * 4 * -bound
    sequences = {name: given[name] for name in ("q", "k", "v", "a", "b")}
    sequences["log_decay"] = np.maximum(given["log_decay"], bound)
    expected = DPLR().naive(exact(sequences), exact(given["s0"]), given["reset"])
    run = precise_jit(functools.partial(dplr_delta_rule, least_log_decay=bound, backend=backend))
    assert_close(run(**given), expected, 1e-5)


def test_one_decay_for_all_channels_and_the_same_key_give_the_gated_delta_rule():
    given = arguments(40, (2, 5, 3))
    k = -given["a"]
    beta = np.random.default_rng(1).uniform(0, 2, k.shape[:3]).astype(np.float32)
    by_head = given["log_decay"][..., :1]
    state = given["s0"], given["reset"]
    expected = gated_delta_rule(given["q"], k, given["v"], beta, by_head[..., 0], *state, chunk_size=16)
    written = beta[..., None] * k
    by_channel = np.broadcast_to(by_head, k.shape)
    actual = kernel(given["q"], written, given["v"], k, -np.exp(by_head) * written, by_channel, *state, chunk_size=16)
    assert_close(actual, expected, 1e-5)


def total(given: dict, backend: str) -> Any:
    o, s_last = kernel(**given, backend=backend)
    return jnp.sum(o) + jnp.sum(s_last)


def test_auto_is_xla():
    given = arguments(20)
    reset = given.pop("reset")

    def program(backend):
        return str(jax.make_jaxpr(jax.grad(lambda x: total(x | {"reset": reset}, backend)))(given))

    assert program("auto") == program("xla")


def test_no_state_of_each_step_is_kept():
    T, K = 128, 32
    given = arguments(T, (1, K, K))
    reset = given.pop("reset")
    program = jax.make_jaxpr(jax.grad(lambda x: total(x | {"reset": reset}, "xla")))(given)
    assert max(x.aval.size for e in equations(program.jaxpr) for x in e.outvars) <= given["q"].size * K / 8


@pytest.mark.parametrize(
    ("argument", "value", "says"),
    [
        ("a", np.zeros((7, 2, 1, 2), np.float32), "a has shape (7, 2, 1, 2), expected (7, 2, 1, 3) like q"),
        ("b", np.zeros((7, 2, 1), np.float32), "b has shape (7, 2, 1), expected (7, 2, 1, 3) like q"),
        ("b", np.zeros((7, 2, 1, 3), np.int32), "b has dtype int32, expected a real float"),
        ("log_decay", np.zeros((7, 2, 1, 1), np.float32), "log_decay has shape (7, 2, 1, 1), expected (7, 2, 1, 3)"),
        ("least_log_decay", 0.0, "least_log_decay is 0.0, expected a finite number below 0"),
        ("least_log_decay", -np.inf, "least_log_decay is -inf, expected a finite number below 0"),
        ("least_log_decay", np.nan, "least_log_decay is nan, expected a finite number below 0"),
        ("backend", "pallas", "backend 'pallas' is not built, expected one of ['reference', 'xla']"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors_of_its_own_arguments(argument, value, says):
    sequences, _, _ = TestRWKV().problem()
    with pytest.raises(MemrlError) as error:
        kernel(**(sequences | {argument: value}))
    assert says in str(error.value)
