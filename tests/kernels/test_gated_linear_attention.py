"""Gated linear attention against its equation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cell_checks import mixed_resets
from chunked_checks import FLOAT32, B, ChunkedChecks, H, K, T, V
from cores.numeric import assert_close, exact, normal
from cuda import lowered_for
from quick import precise_jit

from memrl import MemrlError
from memrl.kernels import backends, gated_linear_attention


class ByHead(ChunkedChecks):
    kernel = staticmethod(gated_linear_attention)
    backends = ("reference", "xla", "interpret")
    channels = False

    def sequences(self, rng, steps, batch, sizes):
        heads, K, V = sizes
        q, k, v = (normal(rng, (steps, batch, heads, n)) for n in (K, K, V))
        log_decay = -np.abs(normal(rng, (steps, batch, heads, K if self.channels else 1)))
        return {"q": q, "k": k, "v": v, "log_decay": log_decay}

    def step(self, s, t, sequences):
        k, v, log_decay = (sequences[name][t] for name in ("k", "v", "log_decay"))
        return np.exp(log_decay)[..., None] * s + k[..., :, None] * v[..., None, :]

    @pytest.mark.parametrize(("strength", "tolerance"), [(1e-3, 1e-5), (30, 2e-4), (1e4, 1e-3), (np.inf, 1e-3)])
    def test_decays_of_any_strength(self, backend, strength, tolerance):
        """Sums of 64 log decays would overflow an exponential; of strong ones they are coarse, hence the tolerance."""
        sequences, s0, _ = self.problem(steps=64, sizes=(1, 4, 3))
        strong = np.random.default_rng(0).random(sequences["log_decay"].shape) < 0.3
        sequences["log_decay"] = np.where(strong, np.float32(-strength), sequences["log_decay"])
        expected = self.naive(exact(sequences), s0, np.zeros((64, 2), bool))
        assert_close(
            precise_jit(functools.partial(gated_linear_attention, backend=backend))(**sequences, s0=s0),
            expected,
            tolerance,
        )

    @pytest.mark.parametrize(
        ("steps", "batch", "sizes", "chunk_size"),
        [(70, 2, (2, 20, 40), 64), (64, 1, (1, 3, 2), 20), (33, 1, (3, 130, 5), 1)],
        ids=["64 or 16", "32 or 16", "16"],
    )
    def test_tiles_and_chunks_hang_over_every_edge(self, steps, batch, sizes, chunk_size):
        """Several chunks, tiles of values and heads, none a multiple of what a program takes."""
        sequences, s0, weights = self.problem(steps=steps, batch=batch, sizes=sizes)
        sequences["log_decay"][::5] *= 10
        for reset in (np.zeros((steps, batch), bool), np.random.default_rng(1).random((steps, batch)) < 0.1):
            arguments = sequences, s0, weights, reset
            expected = self.run(*arguments, backend="reference", chunk_size=64)
            assert_close(self.run(*arguments, backend="interpret", chunk_size=chunk_size), expected, FLOAT32)

    @pytest.mark.gpu
    @pytest.mark.skipif(jax.default_backend() != "gpu", reason="no GPU")
    @pytest.mark.parametrize("chunk_size", [16, 64])
    @pytest.mark.parametrize(
        ("steps", "batch", "sizes"),
        [(7, 2, (1, 3, 2)), (129, 5, (3, 64, 200)), (128, 64, (8, 64, 64)), (40, 1, (1, 256, 64))],
    )
    def test_the_compiled_kernel_equals_the_reference(self, steps, batch, sizes, chunk_size):
        sequences, s0, weights = self.problem(steps=steps, batch=batch, sizes=sizes)
        reset = np.random.default_rng(1).random((steps, batch)) < 0.1
        arguments = sequences, s0, weights, reset
        expected = self.run(*arguments, backend="reference", chunk_size=64)
        assert_close(self.run(*arguments, backend="pallas", chunk_size=chunk_size), expected, FLOAT32)

    def programs(self, platform, dtype, sizes=(H, K, V), steps=T, backend="auto"):
        """Of the loss, and of the loss and all gradients, for `platform`."""
        sequences, s0, _ = self.problem(steps=steps, sizes=sizes)
        sequences = {name: jnp.asarray(x, dtype) for name, x in sequences.items()}

        def loss(sequences, s0):
            o, s_last = gated_linear_attention(**sequences, s0=s0, backend=backend)
            return jnp.sum(o.astype(jnp.float32)) + jnp.sum(s_last)

        return [lowered_for(platform, f, sequences, s0) for f in (loss, jax.value_and_grad(loss, (0, 1)))]

    @pytest.mark.parametrize(
        ("steps", "sizes", "dtype"),
        [(T, (H, K, V), jnp.float32), (100, (3, 100, 70), jnp.bfloat16), (128, (2, 64, 64), jnp.float32)],
        ids=["small", "bfloat16", "large"],
    )
    def test_every_platform_gets_its_fastest(self, steps, sizes, dtype, monkeypatch):
        """Pallas and Triton say here what they cannot lower, without a GPU."""
        monkeypatch.setattr(backends, "has_platform", lambda platform: True)
        for platform in ("cpu", "cuda", "tpu"):
            for program, kernels in zip(self.programs(platform, dtype, sizes, steps), (1, 2), strict=True):
                assert program.count("xla.gpu.triton") == (kernels if platform == "cuda" else 0)
                assert ("stablehlo.dot_general" in program) is (platform != "cuda")

    def test_wide_keys_are_left_to_xla(self, monkeypatch):
        monkeypatch.setattr(backends, "has_platform", lambda platform: True)
        assert all("dot_general" in program for program in self.programs("cuda", jnp.float32, (1, 257, 2)))
        with pytest.raises(MemrlError, match="K is 257, expected at most 256 with backend 'pallas'"):
            self.programs("cuda", jnp.float32, (1, 257, 2), backend="pallas")

    def test_products_on_a_gpu_are_as_good_as_float32(self):
        """A product of TF32 alone is wrong by 5e-4."""
        sequences, _, _ = self.problem()

        def loss(sequences):
            return gated_linear_attention(**sequences, backend="pallas")[0].sum()

        program = str(jax.make_jaxpr(jax.value_and_grad(loss))(sequences))
        assert program.count("dot_general[") == program.count("precision=TF32_TF32_F32_X3") > 0

    def test_the_path_for_other_platforms_has_the_gradients_of_xla(self, monkeypatch):
        """It stands in the same program as the kernel for GPUs, so that its gradient is no longer JAX's own."""
        problem = *self.problem(), mixed_resets(T, B)
        expected = self.run(*problem, backend="xla", chunk_size=4)
        monkeypatch.setattr(backends, "has_platform", lambda platform: True)
        with jax.default_device(jax.devices("cpu")[0]):
            assert_close(self.run(*problem, backend="auto", chunk_size=4), expected, 1e-6)

    def test_without_a_gpu_nothing_stands_between_jax_and_the_chunks(self, monkeypatch):
        monkeypatch.setattr(backends, "has_platform", lambda platform: platform == "cpu")
        sequences, _, _ = self.problem()

        def gradient(backend):
            def loss(sequences):
                return gated_linear_attention(**sequences, backend=backend)[0].sum()

            return str(jax.make_jaxpr(jax.grad(loss))(sequences))

        auto, xla = gradient("auto"), gradient("xla")
        assert "dot_general" in xla
        assert auto == xla

    def test_a_gpu_runs_one_kernel_for_all_of_a_vmap(self):
        sequences, _, _ = self.problem()
        sequences = {name: jnp.stack(5 * [x]) for name, x in sequences.items()}

        def loss(sequences):
            return jax.vmap(lambda x: gated_linear_attention(**x, backend="pallas")[0])(sequences).sum()

        for f, kernels in ((loss, 1), (jax.value_and_grad(loss), 2)):
            assert lowered_for("cuda", f, sequences).count("xla.gpu.triton") == kernels

    def test_pallas_is_refused_where_there_is_no_gpu(self):
        assert all("xla.gpu.triton" in x for x in self.programs("cuda", jnp.float32, backend="pallas"))
        sequences, _, _ = self.problem()
        with pytest.raises(MemrlError) as error:
            gated_linear_attention(**sequences, backend="pallas")
        assert str(error.value) == (
            "gated_linear_attention: backend is 'pallas', which needs cuda; this program is for cpu, expected 'auto' "
            "or 'xla'"
        )

    def test_keys_are_as_wide_as_queries(self):
        sequences, _, _ = self.problem()
        with pytest.raises(MemrlError, match=r"k has shape \(7, 2, 1, 4\), expected \(7, 2, 1, 3\) like q"):
            gated_linear_attention(**(sequences | {"k": np.zeros((7, 2, 1, 4), np.float32)}))


class TestByHead(ByHead):
    """One decay for all channels of a head."""


class TestByChannel(ByHead):
    """A decay for each channel."""

    channels = True
