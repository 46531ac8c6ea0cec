"""S5: a simplified state-space layer (Smith, Warrington & Linderman 2023), resettable as in Lu et al. 2023.

    x' = Lambda x + B u,   y = C x + D u,   discretised by a zero-order hold with a step Delta per state:
    Lambda_bar = exp(Lambda Delta),   B_bar = (exp(Lambda Delta) - 1) / Lambda B,
    x_t = Lambda_bar x_{t-1} + B_bar u_t,   y_t = 2 Re(C x_t) + D u_t.

Lambda starts as the spectrum of J blocks of HiPPO-N (the normal part of HiPPO-LegS); its eigenvalues come in conjugate
pairs, of which one half is kept, hence the 2 Re. The published layer ends in a gated activation, which is part of the
core here: y' = GELU(y) W_1 * sigmoid(GELU(y) W_2).

Left out: bidirectional scans, the bilinear discretisation, a learning rate of its own for Lambda and Delta.
"""

import dataclasses
import math
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from memrl.cores.base import CoreConfig, Linear, MemoryCore
from memrl.errors import check
from memrl.kernels import linear_scan
from memrl.types import Array

Activation = Literal["full_glu", "half_glu", "gelu", "none"]


@dataclasses.dataclass(frozen=True)
class S5Config(CoreConfig):
    """Hyperparameters of S5."""

    owner: ClassVar[str] = "core s5"

    state_size: int | None = None
    """Size of the state space; conjugate pairs make it state_size / 2 complex numbers. D when not given."""
    blocks: int = 1
    """Number J of HiPPO-N blocks that the state space starts from."""
    dt_min: float = 1e-3
    """Smallest initial step Delta."""
    dt_max: float = 1e-1
    """Largest initial step Delta; steps are drawn log-uniformly."""
    activation: Activation = "full_glu"
    """What follows the state space; "half_glu" gates y itself instead of a projection of it."""

    def check(self) -> None:
        """Raises `MemrlError` for sizes below one, or steps that are no interval above zero."""
        self.check_positive("state_size", "blocks", "dt_min")
        check(self.dt_max >= self.dt_min, f"core s5: dt_max is {self.dt_max}, expected at least {self.dt_min}")


class S5(MemoryCore):
    """Simplified state-space layer; its state is x [B, N] complex64 with N = state_size / 2."""

    def __init__(self, features: int, config: S5Config = S5Config(), *, rngs: nnx.Rngs):
        size = config.state_size or features
        check(
            size % (2 * config.blocks) == 0,
            f"core s5: state_size is {size}, expected a multiple of 2 * blocks = {2 * config.blocks}",
        )
        self.features = features
        self.state_size = N = size // 2
        self.activation = config.activation
        eigenvalues, basis = hippo_normal_spectrum(size, config.blocks)
        self.decay_real = nnx.Param(jnp.asarray(np.real(eigenvalues), jnp.float32))  # [N]
        self.decay_imag = nnx.Param(jnp.asarray(np.imag(eigenvalues), jnp.float32))  # [N]
        self.input = nnx.Param(_input_matrix(basis, features, rngs.params()))  # B [N, D, 2]
        self.output = nnx.Param(_output_matrix(basis, features, rngs.params()))  # C [D, N, 2]
        self.skip = nnx.Param(jax.random.normal(rngs.params(), (features,)))  # D [D]
        low, high = math.log(config.dt_min), math.log(config.dt_max)
        self.log_dt = nnx.Param(jax.random.uniform(rngs.params(), (N,), minval=low, maxval=high))
        self.value = Linear(features, features, rngs=rngs) if config.activation == "full_glu" else None
        self.gate = Linear(features, features, rngs=rngs) if config.activation.endswith("glu") else None

    def initial_state(self, batch_size: int) -> Array:
        """Zeros [B, N] complex64."""
        return jnp.zeros((batch_size, self.state_size), jnp.complex64)

    def unroll(self, state: Array, xs: Array, resets: Array) -> tuple[Array, Array]:
        """See `MemoryCore.unroll`."""
        decay, input_matrix = self.discretise()
        # Complex products are real ones of twice the width, so that they run at the speed of real products.
        to_planes = jnp.concatenate([input_matrix.real, input_matrix.imag]).T.astype(xs.dtype)  # [D, 2N]
        real, imag = jnp.split((xs @ to_planes).astype(jnp.float32), 2, -1)
        hs, state = linear_scan(decay, jax.lax.complex(real, imag), state, resets)
        planes = jnp.concatenate([hs.real, hs.imag], -1).astype(xs.dtype)  # [T, B, 2N]
        from_planes = 2 * jnp.concatenate([self.output[..., 0], -self.output[..., 1]], 1).T  # [2N, D]
        ys = planes @ from_planes.astype(xs.dtype) + self.skip[...].astype(xs.dtype)[None, None] * xs
        return state, self._activate(ys)

    def discretise(self) -> tuple[Array, Array]:
        """Lambda_bar [N] and B_bar [N, D], complex; eigenvalues are kept in the left half-plane."""
        eigenvalues = jax.lax.complex(jnp.minimum(self.decay_real[...], -1e-4), self.decay_imag[...])
        exponent = eigenvalues * jnp.exp(self.log_dt[...])
        input_matrix = jax.lax.complex(self.input[..., 0], self.input[..., 1])
        return jnp.exp(exponent), (jnp.expm1(exponent) / eigenvalues)[:, None] * input_matrix

    def _activate(self, ys: Array) -> Array:
        if self.activation == "none":
            return ys
        ys = nnx.gelu(ys)
        if self.gate is None:
            return ys
        return (ys if self.value is None else self.value(ys)) * nnx.sigmoid(self.gate(ys))


def hippo_normal_spectrum(size: int, blocks: int) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues with positive imaginary part, and their eigenvectors, of `blocks` blocks of HiPPO-N.

    HiPPO-LegS has A_nk = -sqrt((2n+1)(2k+1)) for n > k and -(n+1) for n = k; adding P P^T with P = sqrt(n + 1/2)
    makes it normal: -1/2 I plus a skew-symmetric matrix (Gu et al. 2022, "How to train your HiPPO").

    Returns:
        eigenvalues [size / 2] complex and the basis V [size, size / 2] complex, block-diagonal.
    """
    n = np.arange(size // blocks)
    root = np.sqrt(2.0 * n + 1)
    legs = -np.tril(np.outer(root, root), -1) - np.diag(n + 1.0)
    low_rank = np.sqrt(n + 0.5)
    normal = legs + np.outer(low_rank, low_rank)
    frequencies, vectors = np.linalg.eigh(-1j * (normal + 0.5 * np.eye(len(n))))
    half = frequencies > 0
    eigenvalues = -0.5 + 1j * frequencies[half]
    return np.tile(eigenvalues, blocks), np.kron(np.eye(blocks), vectors[:, half])


def _input_matrix(basis: np.ndarray, features: int, key: Array) -> Array:
    """V^* B with B LeCun-normal, as two planes [N, D, 2]."""
    B = jax.random.normal(key, (basis.shape[0], features)) / math.sqrt(features)
    return _as_planes(jnp.asarray(basis.conj().T, jnp.complex64) @ B)


def _output_matrix(basis: np.ndarray, features: int, key: Array) -> Array:
    """C V with C normal of variance 1 / state_size, as two planes [D, N, 2]."""
    C = jax.random.normal(key, (features, basis.shape[0])) / math.sqrt(basis.shape[0])
    return _as_planes(C @ jnp.asarray(basis, jnp.complex64))


def _as_planes(x: Array) -> Array:
    return jnp.stack([x.real, x.imag], -1)
