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

    parallel: ClassVar[bool] = True

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
        # Complex parameters are two planes, real and imaginary, side by side: products with them are real ones of twice
        # the width, at the speed of real products, and nothing is assembled on every step.
        planes = np.stack([np.real(eigenvalues), np.imag(eigenvalues)])
        self.eigenvalues = nnx.Param(jnp.asarray(planes, jnp.float32))  # Lambda [2, N]
        self.input = nnx.Param(_input_planes(basis, features, rngs.params()))  # B [D, 2N]
        self.output = nnx.Param(_output_planes(basis, features, rngs.params()))  # C [2N, D]
        self.skip = nnx.Param(jax.random.normal(rngs.params(), (features,)))  # D [D]
        low, high = math.log(config.dt_min), math.log(config.dt_max)
        self.log_dt = nnx.Param(jax.random.uniform(rngs.params(), (N,), minval=low, maxval=high))
        gates = {"full_glu": 2, "half_glu": 1}.get(config.activation, 0)  # W_1 and W_2 are one product
        self.glu = Linear(features, gates * features, rngs=rngs) if gates else None

    def initial_state(self, batch_size: int) -> Array:
        """Zeros [B, N] complex64."""
        return jnp.zeros((batch_size, self.state_size), jnp.complex64)

    def unroll(self, state: Array, xs: Array, resets: Array) -> tuple[Array, Array]:
        """See `MemoryCore.unroll`."""
        state, ys, _ = self.unroll_with_readout(state, xs, resets)
        return state, ys

    def unroll_with_readout(self, state: Array, xs: Array, resets: Array) -> tuple[Array, Array, Array]:
        """See `MemoryCore.unroll_with_readout`; the readout is y, before the activation."""
        decay, scale = self.discretise()
        real, imag = jnp.split((xs @ self.input[...].astype(xs.dtype)).astype(jnp.float32), 2, -1)
        hs, state = linear_scan(decay, scale[None, None] * jax.lax.complex(real, imag), state, resets)
        planes = jnp.concatenate([2 * hs.real, -2 * hs.imag], -1).astype(xs.dtype)  # [T, B, 2N]
        ys = planes @ self.output[...].astype(xs.dtype) + self.skip[...].astype(xs.dtype)[None, None] * xs
        return state, self._activate(ys), ys

    def discretise(self) -> tuple[Array, Array]:
        """Lambda_bar [N], and what B_bar is B times, [N]; eigenvalues are kept in the left half-plane."""
        real, imag = self.eigenvalues[...]
        eigenvalues = jax.lax.complex(jnp.minimum(real, -1e-4), imag)
        exponent = eigenvalues * jnp.exp(self.log_dt[...])
        return jnp.exp(exponent), jnp.expm1(exponent) / eigenvalues

    def _activate(self, ys: Array) -> Array:
        if self.activation == "none":
            return ys
        ys = nnx.gelu(ys)
        if self.glu is None:
            return ys
        if self.activation == "half_glu":
            return ys * nnx.sigmoid(self.glu(ys))
        value, gate = jnp.split(self.glu(ys), 2, -1)
        return value * nnx.sigmoid(gate)


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


def _input_planes(basis: np.ndarray, features: int, key: Array) -> Array:
    """V^* B with B LeCun-normal, transposed, as two planes [D, 2N]."""
    B = jax.random.normal(key, (features, basis.shape[0])) / math.sqrt(features)
    return B @ jnp.asarray(np.concatenate([np.real(basis), -np.imag(basis)], 1), jnp.float32)


def _output_planes(basis: np.ndarray, features: int, key: Array) -> Array:
    """C V with C normal of variance 1 / state_size, transposed, as two planes [2N, D]."""
    C = jax.random.normal(key, (basis.shape[0], features)) / math.sqrt(basis.shape[0])
    return jnp.asarray(np.concatenate([np.real(basis), np.imag(basis)], 1).T, jnp.float32) @ C
