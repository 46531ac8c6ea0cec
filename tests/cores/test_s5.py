"""S5's start: the published spectrum, and the real state space that its conjugate pairs stand for."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from cores.numeric import assert_close, normal
from flax import nnx

from memrl import make_core
from memrl.cores.hippo import normal_spectrum

D = 4


def hippo_normal(size):
    """HiPPO-LegS plus P P^T, as published: the sum of -1/2 I and a skew-symmetric matrix."""
    normal = np.zeros((size, size))
    for n in range(size):
        for k in range(size):
            legs = -np.sqrt((2 * n + 1) * (2 * k + 1)) if n > k else -(n + 1) if n == k else 0
            normal[n, k] = legs + np.sqrt(n + 0.5) * np.sqrt(k + 0.5)
    return normal


def spectrum(size, blocks) -> Any:
    return normal_spectrum("legs", size, blocks)


def make_s5(seed=0, **hyperparameters) -> Any:
    return make_core("s5", D, rngs=nnx.Rngs(seed), **hyperparameters)


@pytest.mark.parametrize(("size", "blocks"), [(2, 1), (8, 1), (12, 3)])
def test_spectrum_is_that_of_hippo(size, blocks):
    eigenvalues, basis = spectrum(size, blocks)
    matrix = np.kron(np.eye(blocks), hippo_normal(size // blocks))
    assert_close(matrix @ basis, basis * eigenvalues, 1e-12)
    np.testing.assert_allclose(eigenvalues.real, -0.5)
    assert (eigenvalues.imag > 0).all()
    # Together with their conjugates the eigenvectors are a unitary basis of the whole space.
    whole = np.concatenate([basis, basis.conj()], 1)
    assert_close(whole.conj().T @ whole, np.eye(size), 1e-12)
    everything: Any = np.concatenate([eigenvalues, eigenvalues.conj()])
    assert_close(np.sort(everything.imag), np.sort(np.linalg.eigvals(matrix).imag), 1e-9)


def test_half_the_pairs_are_a_real_system():
    """Back in the first basis the core is x' = A x + B u, y = C x + D u with the real HiPPO-N matrix A."""
    size, dt = 8, 0.05
    core = make_s5(state_size=size, dt_min=dt, dt_max=dt, activation="none")
    _, basis = spectrum(size, 1)
    half_B, half_C = (real.T + 1j * imag.T for real, imag in (np.split(core.input, 2, 1), np.split(core.output, 2, 0)))
    A, B, C = hippo_normal(size), 2 * (basis @ half_B).real, 2 * (half_C @ basis.conj().T).real
    propagator = np.eye(2 * size)  # of the zero-order hold: exp of [[A, I], [0, 0]] dt, as a product of small steps
    small = np.block([[A, np.eye(size)], [np.zeros((size, 2 * size))]]) * dt / 2**20
    propagator = np.linalg.matrix_power(np.eye(2 * size) + small + small @ small / 2, 2**20)
    A_bar, B_bar = propagator[:size, :size], propagator[:size, size:] @ B
    us = normal(np.random.default_rng(0), (30, 1, D))
    x, expected = np.zeros((1, size)), []
    for u in us:
        x = x @ A_bar.T + u @ B_bar.T
        expected.append(x @ C.T + np.asarray(core.skip[...]) * u)
    _, ys = core.unroll(core.initial_state(1), us, jnp.zeros((30, 1), bool))
    assert_close(ys, np.stack(expected), 1e-5)


def test_random_matrices_have_the_published_scale():
    core: Any = make_core("s5", 64, rngs=nnx.Rngs(0), state_size=128, blocks=16)
    assert np.var(core.input[...]) == pytest.approx(1 / (2 * 64), rel=0.05)  # LeCun, over two planes
    assert np.var(core.output[...]) == pytest.approx(1 / (2 * 128), rel=0.05)
    assert np.var(core.skip[...]) == pytest.approx(1, rel=0.4)


def test_steps_are_log_uniform_in_their_range():
    log_dt = np.asarray(make_s5(state_size=400, blocks=100, dt_min=1e-3, dt_max=1e-1).log_dt[...])
    quantiles = np.quantile(log_dt, [0, 0.25, 0.5, 0.75, 1])
    assert log_dt.min() >= np.log(1e-3)
    assert log_dt.max() <= np.log(1e-1)
    np.testing.assert_allclose(quantiles, np.linspace(np.log(1e-3), np.log(1e-1), 5), atol=0.5)


def test_learning_cannot_make_it_unstable():
    core = make_s5(activation="none")
    core.eigenvalues[...] = core.eigenvalues[...].at[0].set(5.0)  # as a bad update might
    decay, _ = core.discretise()
    assert (np.abs(decay) < 1).all()
    assert (np.abs(decay) > 0.999).all()
