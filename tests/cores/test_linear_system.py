"""S4, S4D and LSSL start as the systems that they approximate or are, and stay stable whatever is learned."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from cores.numeric import assert_close
from flax import nnx
from quick import quick_jit

from memrl import make_core
from memrl.cores.hippo import legs, normal_spectrum

D, N, L = 3, 16, 40


def make(name, **hyperparameters) -> Any:
    return make_core(name, D, rngs=nnx.Rngs(0), state_size=N, dt_min=0.01, dt_max=0.3, **hyperparameters)


def response(core):
    """What each feature's system says to an impulse, [L, D], through the unroll: its kernel K_l = C A^l B."""
    core.skip[...] *= 0
    impulse = jnp.zeros((L, 1, D)).at[0].set(1)
    _, ys = quick_jit(core.unroll)(core.initial_state(1), impulse, jnp.zeros((L, 1), bool))
    return np.asarray(ys)[:, 0]


def hippo_response(C, dt):
    """K_l from the powers of the dense bilinear matrix of HiPPO-LegS, for each feature: C [D, N], dt [D]."""
    A, B = legs(N)
    kernel = np.zeros((L, D))
    for d in range(D):
        inverse = np.linalg.inv(np.eye(N) - dt[d] / 2 * A)
        A_bar, x = inverse @ (np.eye(N) + dt[d] / 2 * A), dt[d] * inverse @ B
        for step in range(L):
            kernel[step, d] = C[d] @ x
            x = A_bar @ x
    return kernel


@pytest.mark.parametrize("chunk_size", [7, 64])
def test_s4_starts_as_hippo(chunk_size):
    """In its diagonal basis, of which it keeps half, S4 is the dense HiPPO-LegS."""
    core = make("s4", activation="none", chunk_size=chunk_size)
    _, basis = normal_spectrum("legs", N)
    real, imag = np.asarray(core.output[...])
    C = 2 * ((real + 1j * imag) @ basis.conj().T).real
    assert_close(response(core), hippo_response(C, np.exp(core.log_dt[...])), 1e-5)


def test_lssl_is_hippo():
    core = make("lssl")
    core.mix = lambda ys: ys  # the GELU stays
    expected = hippo_response(np.asarray(core.output[0]), np.exp(core.log_dt[...]))
    assert_close(response(core), np.asarray(nnx.gelu(jnp.asarray(expected, jnp.float32))), 1e-5)


@pytest.mark.parametrize("name", ["s4", "s4d"])
@pytest.mark.parametrize("log_real", [-30.0, 5.0])
def test_learning_cannot_make_state_spaces_unstable(name, log_real):
    core = make(name)
    core.log_real[...] = jnp.full_like(core.log_real[...], log_real)  # as a bad update might
    core.log_dt[...] = jnp.array([-5.0, 0.0, 3.0])
    system = core.system()
    columns, _ = system.step(jnp.broadcast_to(jnp.eye(N)[:, None], (N, D, N)), jnp.zeros((N, D)))
    for d in range(D):
        assert np.linalg.norm(np.asarray(columns[:, d], np.float64), 2) < 1 + 1e-5
