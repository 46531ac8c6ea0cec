"""S5: a simplified state-space layer (Smith, Warrington & Linderman 2023), resettable as in Lu et al. 2023.

    x' = Lambda x + B u,   y = C x + D u,   discretised by a zero-order hold with a step Delta per state:
    Lambda_bar = exp(Lambda Delta),   B_bar = (exp(Lambda Delta) - 1) / Lambda B,
    x_t = Lambda_bar x_{t-1} + B_bar u_t,   y_t = 2 Re(C x_t) + D u_t.

Lambda starts as the spectrum of J blocks of HiPPO-N (the normal part of HiPPO-LegS), or of the normal parts of other
HiPPO matrices; its eigenvalues come in conjugate pairs, of which one half is kept, hence the 2 Re. The published layer
ends in a gated activation, which is part of the core here: y' = GELU(y) W_1 * sigmoid(GELU(y) W_2).

Left out: bidirectional scans, the bilinear discretisation, a learning rate of its own for Lambda and Delta.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from memrl.cores.base import CoreConfig, MemoryCore
from memrl.cores.hippo import Basis, normal_spectrum
from memrl.cores.state_space import (
    Activation,
    OutputActivation,
    check_steps,
    into_complex,
    log_steps,
    planes,
    real_part,
    skip,
    zero_order_hold,
)
from memrl.errors import check
from memrl.kernels import linear_scan
from memrl.types import Array


@dataclasses.dataclass(frozen=True)
class S5Config(CoreConfig):
    """Hyperparameters of S5."""

    owner: ClassVar[str] = "core s5"

    state_size: int | None = None
    """Size of the state space; conjugate pairs make it state_size / 2 complex numbers. D when not given."""
    blocks: int = 1
    """Number J of HiPPO blocks that the state space starts from."""
    basis: Basis = "legs"
    """HiPPO matrix whose normal part is the start: Legendre on all of the past, or Legendre or Fourier on a window."""
    dt_min: float = 1e-3
    """Smallest initial step Delta."""
    dt_max: float = 1e-1
    """Largest initial step Delta; steps are drawn log-uniformly."""
    activation: Activation = "full_glu"
    """What follows the state space; "half_glu" gates y itself instead of a projection of it."""

    def check(self) -> None:
        """Raises `MemrlError` for sizes below one, or steps that are no interval above zero."""
        self.check_positive("state_size", "blocks", "dt_min")
        check_steps(self.owner, self.dt_min, self.dt_max)


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
        eigenvalues, basis = normal_spectrum(config.basis, size, config.blocks)
        self.eigenvalues = nnx.Param(planes(eigenvalues))  # Lambda [2, N]
        self.input = nnx.Param(_input_planes(basis, features, rngs.params()))  # B [D, 2N]
        self.output = nnx.Param(_output_planes(basis, features, rngs.params()))  # C [2N, D]
        self.skip = nnx.Param(jax.random.normal(rngs.params(), (features,)))  # D [D]
        self.log_dt = nnx.Param(log_steps((N,), config.dt_min, config.dt_max, rngs))
        self.activation = OutputActivation(features, config.activation, rngs=rngs)

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
        inputs = scale[None, None] * into_complex(xs, self.input[...])
        hs, state = linear_scan(decay, inputs, state, resets)
        ys = real_part(2 * hs, self.output[...], xs.dtype) + skip(xs, self.skip[...])
        return state, self.activation(ys), ys

    def discretise(self) -> tuple[Array, Array]:
        """Lambda_bar [N], and what B_bar is B times, [N]; eigenvalues are kept in the left half-plane."""
        real, imag = self.eigenvalues[...]
        eigenvalues = jax.lax.complex(jnp.minimum(real, -1e-4), imag)
        return zero_order_hold(eigenvalues, jnp.exp(self.log_dt[...]))


def _input_planes(basis: np.ndarray, features: int, key: Array) -> Array:
    """V^* B with B LeCun-normal, transposed, as two planes [D, 2N]."""
    B = jax.random.normal(key, (features, basis.shape[0])) / math.sqrt(features)
    return B @ jnp.asarray(np.concatenate([np.real(basis), -np.imag(basis)], 1), jnp.float32)


def _output_planes(basis: np.ndarray, features: int, key: Array) -> Array:
    """C V with C normal of variance 1 / state_size, transposed, as two planes [2N, D]."""
    C = jax.random.normal(key, (basis.shape[0], features)) / math.sqrt(basis.shape[0])
    return jnp.asarray(np.concatenate([np.real(basis), np.imag(basis)], 1).T, jnp.float32) @ C
