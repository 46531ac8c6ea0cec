"""HiPPO: the matrices of systems x' = A x + B u whose state holds the coefficients of the past in a basis of functions.

legs  Legendre polynomials on all of the past, scaled to it (Gu et al. 2020), as a time-invariant system:
      A_nk = -sqrt((2n+1)(2k+1)) for n > k, -(n+1) for n = k, 0 for n < k;   B_n = sqrt(2n+1).
legt  Legendre polynomials on a sliding window of length 1 (Voelker et al. 2019, Gu et al. 2020), orthonormal:
      A_nk = -sqrt((2n+1)(2k+1)) for n >= k, that times (-1)^(n-k) for n < k;   B_n = sqrt(2n+1).
fout  Fourier series on a sliding window of length 1 (Gu et al. 2023, "How to Train Your HiPPO"), the state being
      1, -, cos_1, sin_1, cos_2, sin_2, ... (the place of sin_0 is free):
      A = S - p p^T with S_(sin k, cos k) = 2 pi k = -S_(cos k, sin k), p = (sqrt 2, 0, 2, 0, 2, ...);   B = sqrt(2) p.

Each A is a normal matrix less a positive semidefinite one of low rank, A = S - P P^T: P = sqrt(n + 1/2) for legs, p for
fout, and two columns for legt, sqrt(2n+1) on the even n and on the odd ones. S is -1/2 I plus a skew-symmetric matrix
for legs and skew-symmetric for the other two.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Basis = Literal["legs", "legt", "fout"]


def legs(size: int) -> tuple[np.ndarray, np.ndarray]:
    """A [N, N] and B [N] of HiPPO-LegS."""
    root = _roots(size)
    return -np.tril(np.outer(root, root), -1) - np.diag(np.arange(size) + 1.0), root


def legt(size: int) -> tuple[np.ndarray, np.ndarray]:
    """A [N, N] and B [N] of HiPPO-LegT; a window of length theta is A / theta and B / theta."""
    root, sign = _roots(size), (-1.0) ** np.arange(size)
    outer = np.outer(root, root)
    return -np.tril(outer) - np.triu(outer * np.outer(sign, sign), 1), root


def fout(size: int) -> tuple[np.ndarray, np.ndarray]:
    """A [N, N] and B [N] of HiPPO-FouT; N is even."""
    below = np.zeros(size - 1)
    below[0::2] = 2 * np.pi * np.arange(size // 2)
    low_rank = low_rank_part("fout", size)
    return np.diag(below, -1) - np.diag(below, 1) - low_rank @ low_rank.T, np.sqrt(2) * low_rank[:, 0]


def low_rank_part(basis: Basis, size: int) -> np.ndarray:
    """P [N, 1], or [N, 2] for legt, such that A + P P^T is normal."""
    even = np.arange(size) % 2 == 0
    if basis == "legt":
        return np.stack([_roots(size) * even, _roots(size) * ~even], 1)
    if basis == "fout":
        return np.where(even, np.where(np.arange(size) == 0, np.sqrt(2), 2), 0)[:, None]
    return np.sqrt(np.arange(size) + 0.5)[:, None]


def normal_spectrum(basis: Basis, size: int, blocks: int = 1) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
    """One of each conjugate pair of eigenvalues of A + P P^T, and their eigenvectors, for `blocks` equal blocks.

    The real part is -1/2 throughout: that of legs, and given to the other two, as in S4D-Lin, because the low-rank part
    that damps them is not here.

    Returns:
        eigenvalues [size / 2] complex with imaginary parts >= 0, and the basis V [size, size / 2], block-diagonal.
    """
    width = size // blocks
    if basis == "fout":
        frequencies = 2 * np.pi * np.arange(width // 2)
        vectors = np.kron(np.eye(width // 2), np.array([[1], [-1j]]) / np.sqrt(2))
    else:
        A, _ = legs(width) if basis == "legs" else legt(width)
        low_rank = low_rank_part(basis, width)
        normal = A + low_rank @ low_rank.T
        frequencies, vectors = np.linalg.eigh(-0.5j * (normal - normal.T))
        frequencies, vectors = frequencies[width // 2 :], vectors[:, width // 2 :]  # eigh sorts: the upper half is > 0
    eigenvalues = np.tile(-0.5 + 1j * frequencies, blocks)
    return eigenvalues.astype(np.complex128), np.kron(np.eye(blocks), vectors).astype(np.complex128)


def _roots(size: int) -> np.ndarray:
    """sqrt(2n + 1): the norm that makes Legendre polynomials orthonormal on an interval of length 1."""
    return np.sqrt(2.0 * np.arange(size) + 1)
