"""HiPPO's matrices by what they are for: their states are coefficients of the past."""

from typing import Any

import numpy as np
import pytest
from cores.numeric import assert_close
from numpy.polynomial import legendre
from scipy.signal import cont2discrete

from memrl.cores.hippo import fout, legs, legt, low_rank_part, normal_spectrum
from memrl.cores.lmu import discretised

MATRICES = {"legs": legs, "legt": legt, "fout": fout}
every_basis = pytest.mark.parametrize("basis", MATRICES)


def exponential(A, squarings=24):
    """exp(A) from a short step of the bilinear rule, squared again and again."""
    step, one = A / 2**squarings, np.eye(len(A))
    return np.linalg.matrix_power(np.linalg.solve(one - step / 2, one + step / 2), 2**squarings)


def test_legt_holds_legendre_coefficients_of_a_window():
    """exp(A s) B is the basis at the lag s: sqrt(2n+1) P_n(1 - 2s) up to 1, then nothing."""
    size, low = 200, 4  # of a finite basis only the first functions are sharp
    A, B = legt(size)
    for lag in (0.1, 0.35, 0.8):
        polynomials = [np.sqrt(2 * n + 1) * legendre.Legendre.basis(n)(1 - 2 * lag) for n in range(low)]
        np.testing.assert_allclose((exponential(A * lag) @ B)[:low], polynomials, atol=0.06)
    np.testing.assert_allclose((exponential(A * 1.5) @ B)[:low], 0, atol=0.01)


def test_the_system_of_the_legendre_memory_unit_is_the_papers_in_other_coordinates():
    """Voelker et al. 2019, equation 2, for Legendre polynomials that are not normalised and run back in time."""
    order, window = 6, 10.0
    i, j = np.arange(order)[:, None], np.arange(order)[None]
    A, B = (2 * i + 1) * np.where(i < j, -1, (-1.0) ** (i - j + 1)), (2 * i + 1) * (-1.0) ** i
    blank = np.zeros((1, 1))
    discrete: Any = cont2discrete((A / window, B / window, np.zeros((1, order)), blank), dt=1, method="zoh")
    A_bar, B_bar = discrete[:2]
    turn = np.diag((-1.0) ** i[:, 0] * np.sqrt(2 * i[:, 0] + 1))
    ours_A, ours_B = discretised(order, window)
    np.testing.assert_allclose(turn @ ours_A @ np.linalg.inv(turn), A_bar, atol=1e-12)
    np.testing.assert_allclose(turn @ ours_B, B_bar[:, 0], atol=1e-12)


def test_legs_holds_legendre_coefficients_of_a_fading_past():
    """In the time-invariant system the past fades: sqrt(2n+1) exp(-s) P_n(2 exp(-s) - 1), exactly for any size."""
    A, B = legs(8)
    for lag in (0.0, 0.5, 2.0):
        known = [np.sqrt(2 * n + 1) * legendre.Legendre.basis(n)(2 * np.exp(-lag) - 1) for n in range(8)]
        np.testing.assert_allclose(exponential(A * lag) @ B, np.exp(-lag) * np.array(known), atol=1e-5)


@pytest.mark.parametrize("k", [0, 1, 3])
def test_fout_holds_fourier_coefficients_of_a_window(k):
    """cos(2 pi k t) has the coefficients cos / sqrt 2 and sin / sqrt 2 (1 for k = 0), a solution of the system."""
    A, B = fout(10)
    for t in (0.0, 0.2, 0.7):
        angle, rate = 2 * np.pi * k * t, 2 * np.pi * k
        x, slope = np.zeros(10), np.zeros(10)
        x[2 * k] = np.cos(angle) / np.sqrt(2) if k else 1
        slope[2 * k] = -rate * np.sin(angle) / np.sqrt(2)
        if k:
            x[2 * k + 1], slope[2 * k + 1] = np.sin(angle) / np.sqrt(2), rate * np.cos(angle) / np.sqrt(2)
        np.testing.assert_allclose(A @ x + B * np.cos(angle), slope, atol=1e-9)


@every_basis
def test_what_remains_without_the_low_rank_part_is_normal(basis):
    A, _ = MATRICES[basis](10)
    low_rank = low_rank_part(basis, 10)
    symmetric = A + A.T + 2 * low_rank @ low_rank.T
    np.testing.assert_allclose(symmetric, -np.eye(10) if basis == "legs" else 0, atol=1e-12)


@every_basis
@pytest.mark.parametrize(("size", "blocks"), [(2, 1), (10, 1), (12, 3)])
def test_spectrum_and_eigenvectors(basis, size, blocks):
    eigenvalues, vectors = normal_spectrum(basis, size, blocks)
    A, _ = MATRICES[basis](size // blocks)
    low_rank = low_rank_part(basis, size // blocks)
    skew = np.kron(np.eye(blocks), A + low_rank @ low_rank.T)
    skew = (skew - skew.T) / 2
    assert_close(skew @ vectors, vectors * 1j * eigenvalues.imag, 1e-12)
    np.testing.assert_array_equal(eigenvalues.real, -0.5)
    assert (eigenvalues.imag >= 0).all()
    whole = np.concatenate([vectors, vectors.conj()], 1)
    assert_close(whole.conj().T @ whole, np.eye(size), 1e-12)
