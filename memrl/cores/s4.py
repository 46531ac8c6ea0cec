"""S4: structured state spaces (Gu, Goel & Ré 2022, "Efficiently Modeling Long Sequences with Structured State Spaces").

    x' = A x + B u,   y = C x + D u,   one system for each feature, A = Lambda - P P^* (diagonal plus low rank),
    discretised by the bilinear rule: with h = Delta / 2,
    x_t = (I - h A)^-1 ((I + h A) x_{t-1} + Delta B u_t) = (2 (I - h A)^-1 - I) x_{t-1} + (I - h A)^-1 Delta B u_t.

It starts as HiPPO-LegS in the basis where its normal part is diagonal. Lambda, P, B and C come in conjugate pairs, of
which one half is kept, so that P^* x is 2 Re(P^* x) over that half. Lambda = -exp(a) + i b, and A + A^* is negative
definite (P^* in place of the first Q^*, after Goel et al. 2022): no learned A can be unstable. One step takes O(N) by
the Woodbury identity: with G = 1 / (1 - h Lambda),

    (I - h A)^-1 r = G r - h G P (P^* G r) / (1 + h P^* G P).

A sequence goes in chunks, each a convolution with K_l = C A^l B and a carried state, which makes resets exact: see
memrl/cores/linear_system.py. The layer's gated activation is part of the core: y' = GELU(y) W_1 * sigmoid(GELU(y) W_2).

Left out: the kernel by its generating function and FFT (a convolution as long as the sequence has no place for resets
or a carried state), bidirectional kernels, a learning rate of its own for Lambda, P, B, Delta.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from memrl.cores.base import CoreConfig, MemoryCore
from memrl.cores.hippo import legs, low_rank_part, normal_spectrum
from memrl.cores.linear_system import LinearSystem, dense_chunk, product, unroll_system
from memrl.cores.state_space import (
    Activation,
    OutputActivation,
    check_pairs,
    check_steps,
    log_steps,
    parts_of,
    planes,
    read_parts,
    rotate,
    skip,
)
from memrl.types import Array


@dataclasses.dataclass(frozen=True)
class S4Config(CoreConfig):
    """Hyperparameters of S4."""

    owner: ClassVar[str] = "core s4"

    state_size: int = 64
    """Size N of each feature's state; conjugate pairs make it N / 2 complex numbers."""
    dt_min: float = 1e-3
    """Smallest initial step Delta."""
    dt_max: float = 1e-1
    """Largest initial step Delta; each feature's step is drawn log-uniformly."""
    activation: Activation = "full_glu"
    """What follows the state spaces; "half_glu" gates y itself instead of a projection of it."""
    chunk_size: int = 32
    """Steps that are computed at once; results differ by rounding only."""

    def check(self) -> None:
        """Raises `MemrlError` for an odd size, an empty chunk, or steps that are no interval above zero."""
        self.check_positive("state_size", "dt_min", "chunk_size")
        check_pairs(self.owner, self.state_size)
        check_steps(self.owner, self.dt_min, self.dt_max)


class S4(MemoryCore):
    """Structured state spaces; the state is x [B, D, N], real parts and then imaginary ones of N / 2 numbers."""

    parallel: ClassVar[bool] = True

    def __init__(self, features: int, config: S4Config = S4Config(), *, rngs: nnx.Rngs):
        self.features = features
        self.state_size = N = config.state_size
        self.chunk_size = config.chunk_size
        eigenvalues, basis = normal_spectrum("legs", N)
        low_rank, write = basis.conj().T @ low_rank_part("legs", N)[:, 0], basis.conj().T @ legs(N)[1]
        self.log_real = nnx.Param(jnp.full((features, N // 2), jnp.log(0.5)))  # a [D, N / 2]
        self.imag = nnx.Param(_repeated(eigenvalues, features)[1])  # b [D, N / 2]
        self.low_rank = nnx.Param(_repeated(low_rank, features))  # P [2, D, N / 2], as planes
        self.input = nnx.Param(_repeated(write, features))  # B [2, D, N / 2]
        C = jax.random.normal(rngs.params(), (features, N))
        self.output = nnx.Param(jnp.stack([C @ part for part in planes(basis)]))  # C [2, D, N / 2]
        self.skip = nnx.Param(jax.random.normal(rngs.params(), (features,)))  # D [D]
        self.log_dt = nnx.Param(log_steps((features,), config.dt_min, config.dt_max, rngs))
        self.activation = OutputActivation(features, config.activation, rngs=rngs)

    def initial_state(self, batch_size: int) -> Array:
        """Zeros [B, D, N]."""
        return jnp.zeros((batch_size, self.features, self.state_size))

    def unroll(self, state: Array, xs: Array, resets: Array) -> tuple[Array, Array]:
        """See `MemoryCore.unroll`."""
        state, ys = unroll_system(self.system(), state, xs, resets, self.chunk_size)
        return state, self.activation(ys[:, :, 0].astype(xs.dtype) + skip(xs, self.skip[...]))

    def system(self) -> LinearSystem:
        """The discretised systems."""
        eigenvalues = jax.lax.complex(-jnp.exp(self.log_real[...]), self.imag[...])
        P, B, C = (jax.lax.complex(*parts[...]) for parts in (self.low_rank, self.input, self.output))
        dt = jnp.exp(self.log_dt[...])[:, None]
        G = 1 / (1 - dt / 2 * eigenvalues)
        strength = dt / 2 / (1 + dt / 2 * _real_product(P, G * P))
        write = dt * (G * B - strength * _real_product(P, G * B) * G * P)
        diagonal, column, row = parts_of(2 * G - 1), parts_of(G * P), parts_of(4 * strength * P * G.conj())

        write, read = parts_of(write), parts_of(2 * C.conj())

        def step(x, u):
            # A product, and not a sum over `row` times x: jaxlib 0.10.2 computes that sum, spread over the states,
            # wrongly on a CPU for batches of some 64 rows and more.
            low_rank = column[None] * product("bdn,dn->bd", x, row)[..., None]
            x = rotate(diagonal, x, write[None] * u[..., None] - low_rank)
            return jnp.concatenate(x, -1), read_parts(x, read)

        return LinearSystem(step, write, read[None], dense_chunk)


def _real_product(x: Array, y: Array) -> Array:
    """x^* y over all conjugate pairs, of which `x` and `y` [D, N / 2] are one half; [D, 1]."""
    return 2 * jnp.sum(x.real * y.real + x.imag * y.imag, -1, keepdims=True)


def _repeated(x: np.ndarray, features: int) -> Array:
    """A complex vector for each feature, as planes [2, D, N / 2]."""
    return planes(np.tile(x, (features, 1)))
