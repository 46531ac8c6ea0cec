"""Gated linear attention against its equation."""

import numpy as np
import pytest
from cell_checks import quick_jit
from chunked_checks import ChunkedChecks
from cores.numeric import assert_close, exact, normal

from memrl import MemrlError
from memrl.kernels import gated_linear_attention


class ByHead(ChunkedChecks):
    kernel = staticmethod(gated_linear_attention)
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
    def test_decays_of_any_strength(self, strength, tolerance):
        """Sums of 64 log decays would overflow an exponential; of strong ones they are coarse, hence the tolerance."""
        sequences, s0, _ = self.problem(steps=64, sizes=(1, 4, 3))
        strong = np.random.default_rng(0).random(sequences["log_decay"].shape) < 0.3
        sequences["log_decay"] = np.where(strong, np.float32(-strength), sequences["log_decay"])
        expected = self.naive(exact(sequences), s0, np.zeros((64, 2), bool))
        assert_close(quick_jit(gated_linear_attention)(**sequences, s0=s0), expected, tolerance)

    def test_keys_are_as_wide_as_queries(self):
        sequences, _, _ = self.problem()
        with pytest.raises(MemrlError, match=r"k has shape \(7, 2, 1, 4\), expected \(7, 2, 1, 3\) like q"):
            gated_linear_attention(**(sequences | {"k": np.zeros((7, 2, 1, 4), np.float32)}))


class TestByHead(ByHead):
    """One decay for all channels of a head."""


class TestByChannel(ByHead):
    """A decay for each channel."""

    channels = True
