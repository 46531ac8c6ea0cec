"""Linear attention with signed decays against its equation."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from cell_checks import mixed_resets
from chunked_checks import FLOAT32, NONE, B, ChunkedChecks, H, K, T, V
from cores.numeric import assert_close, normal
from quick import precise_jit

from memrl import MemrlError
from memrl.kernels import gated_linear_attention, signed_linear_attention


class TestSignedLinearAttention(ChunkedChecks):
    kernel = staticmethod(signed_linear_attention)

    def sequences(self, rng, steps, batch, sizes):
        heads, K, V = sizes
        q, k, v = (normal(rng, (steps, batch, heads, n)) for n in (K, K, V))
        return {"q": q, "k": k, "v": v, "decay": np.tanh(2 * normal(rng, (steps, batch, heads)))}

    def step(self, s, t, sequences):
        k, v, decay = (sequences[name][t] for name in ("k", "v", "decay"))
        return decay[..., None, None] * s + k[..., :, None] * v[..., None, :]

    @pytest.mark.parametrize("decay", [0.0, 1e-30, -1e-4, 1.0, -1.0])
    def test_a_decay_at_the_edge(self, backend, decay):
        sequences, s0, weights = self.problem()
        sequences["decay"][[2, 3]] = np.float32(decay)
        self.check(backend, (sequences, s0, weights), NONE)

    def test_positive_decays_are_gated_linear_attention(self, backend):
        sequences, s0, _ = self.problem()
        reset = jnp.asarray(mixed_resets(T, B))
        decay = jnp.abs(sequences.pop("decay"))
        expected = gated_linear_attention(**sequences, log_decay=jnp.log(decay)[..., None], s0=s0, reset=reset)
        run = precise_jit(functools.partial(signed_linear_attention, backend=backend))
        assert_close(run(**sequences, decay=decay, s0=s0, reset=reset), expected, FLOAT32)

    def test_signs_remember_a_parity(self, backend):
        """What a positive decay cannot do: the state's sign is that of the number of ones so far."""
        bits = np.random.default_rng(0).integers(0, 2, (300, 1, 1))
        ones = np.ones((300, 1, 1, 1), np.float32)
        run = precise_jit(functools.partial(signed_linear_attention, backend=backend))
        o, _ = run(ones, 0 * ones, ones, (1 - 2 * bits).astype(np.float32), s0=jnp.ones((1, 1, 1, 1)))
        assert_close(o[:, 0, 0, 0], (1 - 2 * (np.cumsum(bits) % 2)).astype(np.float32), 0)

    @pytest.mark.parametrize(
        ("argument", "value", "says"),
        [
            ("q", np.zeros((T, B, K), np.float32), "q has shape (7, 2, 3)"),
            ("v", np.zeros((T, B, 2, V), np.float32), "v has shape (7, 2, 2, 2)"),
            ("decay", np.zeros((T, B, H, K), np.float32), "decay has shape (7, 2, 1, 3), expected (7, 2, 1)"),
            ("decay", np.zeros((T, B, H), np.int32), "decay has dtype int32"),
            ("s0", np.zeros((B, H, V, K), np.float32), "s0 has shape (2, 1, 2, 3)"),
            ("reset", np.zeros((B, T), bool), "reset is bool[2, 7]"),
            ("chunk_size", 0, "chunk_size is 0"),
            ("backend", "pallas", "backend 'pallas' is not built"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_errors_are_one_line_and_name_the_argument(self, argument, value, says):
        sequences, s0, _ = self.problem()
        with pytest.raises(MemrlError) as error:
            signed_linear_attention(**(sequences | {"s0": s0, "reset": NONE} | {argument: value}))
        message = str(error.value)
        assert says in message
        assert "signed_linear_attention" in message
        assert "\n" not in message

    def test_long_products_keep_the_gradient_of_a_small_decay(self):
        """Of a decay of 1e-6 as of any other; by logarithms it would be wrong by a tenth of itself."""
        sequences, s0, weights = self.problem(steps=64, sizes=(1, 4, 3))
        sequences["decay"][31] = np.float32(1e-6)
        reset = np.zeros((64, B), bool)
        expected, actual = (
            self.run(sequences, s0, weights, reset, backend=backend, chunk_size=64)[1][0]["decay"][31]
            for backend in ("reference", "xla")
        )
        assert_close(actual, expected, 1e-5)
