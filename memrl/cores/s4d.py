"""S4D: a diagonal state space of its own for each feature (Gu, Gupta, Goel & Ré 2022, "On the Parameterization and
Initialization of Diagonal State Space Models").

    x' = A x + B u,   y = 2 Re(C x) + D u,   with A diagonal, one of each conjugate pair, and B = 1, in discrete steps:
    zero-order hold  A_bar = exp(A Delta),                         B_bar = (exp(A Delta) - 1) / A,
    bilinear         A_bar = (1 + A Delta / 2) / (1 - A Delta / 2),   B_bar = Delta / (1 - A Delta / 2),
    x_t = A_bar x_{t-1} + B_bar u_t,   y_t = 2 Re(C x_t) + D u_t.

A = -exp(a) + i b starts at the real part -1/2 and, for the n-th of N / 2 pairs, at the imaginary part
    lin   pi n,
    inv   (N / pi) (N / (2n + 1) - 1),
    legs  that of the normal part of HiPPO-LegS;
C starts complex normal of variance 1.
The layer's gated activation, which mixes the features, is part of the core here: GELU(y) W_1 * sigmoid(GELU(y) W_2).
A sequence goes in chunks, each a convolution and a carried state (memrl/cores/linear_system.py): N / 2 complex numbers
for each feature at every step are too many to write down.

Left out: a learned B (only its product with C matters), bidirectional kernels, a learning rate of its own for A, Delta.
"""

import dataclasses
import math
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from memrl.cores.base import CoreConfig, MemoryCore
from memrl.cores.hippo import normal_spectrum
from memrl.cores.linear_system import Chunk, LinearSystem, unroll_system
from memrl.cores.state_space import (
    Activation,
    OutputActivation,
    check_pairs,
    check_steps,
    log_steps,
    parts_of,
    read_parts,
    rotate,
    skip,
    zero_order_hold,
)
from memrl.types import Array

Start = Literal["lin", "inv", "legs"]


@dataclasses.dataclass(frozen=True)
class S4DConfig(CoreConfig):
    """Hyperparameters of S4D."""

    owner: ClassVar[str] = "core s4d"

    state_size: int = 64
    """Size N of each feature's state; conjugate pairs make it N / 2 complex numbers."""
    init: Start = "lin"
    """Where the imaginary parts of A start."""
    discretisation: Literal["zoh", "bilinear"] = "zoh"
    """How A and B become those of a step: zero-order hold or bilinear."""
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


class S4D(MemoryCore):
    """Diagonal state spaces; the state is x [B, D, N], real parts and then imaginary ones of N / 2 numbers."""

    parallel: ClassVar[bool] = True

    def __init__(self, features: int, config: S4DConfig = S4DConfig(), *, rngs: nnx.Rngs):
        self.features = features
        self.state_size = config.state_size
        self.discretisation, self.chunk_size = config.discretisation, config.chunk_size
        shape = (features, config.state_size // 2)
        self.log_real = nnx.Param(jnp.full(shape, jnp.log(0.5)))  # a [D, N / 2]
        self.imag = nnx.Param(jnp.tile(jnp.asarray(_frequencies(config), jnp.float32), (features, 1)))  # b [D, N / 2]
        # Complex numbers of variance 1, half of it in each plane.
        self.output = nnx.Param(jax.random.normal(rngs.params(), (2, *shape)) / math.sqrt(2))  # C [2, D, N / 2]
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
        decay, write = self.discretise()
        C = 2 * jax.lax.complex(*self.output[...])
        in_parts, write_parts, read = parts_of(decay), parts_of(write), parts_of(C.conj())

        def step(x, u):
            x = rotate(in_parts, x, write_parts[None] * u[..., None])
            return jnp.concatenate(x, -1), read_parts(x, read)

        def chunk(system, L):
            del system
            powers = jnp.ones((1, *decay.shape), decay.dtype)
            while len(powers) < L + 1:
                powers = jnp.concatenate([powers, powers * (powers[-1] * decay)[None]])
            last = parts_of(powers[L])
            return Chunk(
                written=parts_of(powers[:L] * write[None]),
                read=parts_of((powers[1 : L + 1] * C[None]).conj())[:, None],
                leap=lambda x, z: jnp.concatenate(rotate(last, x, z), -1),
            )

        return LinearSystem(step, write_parts, read[None], chunk)

    def discretise(self) -> tuple[Array, Array]:
        """A_bar and B_bar, [D, N / 2] complex."""
        A = jax.lax.complex(-jnp.exp(self.log_real[...]), self.imag[...])
        dt = jnp.exp(self.log_dt[...])[:, None]
        if self.discretisation == "zoh":
            return zero_order_hold(A, dt)
        return (1 + A * dt / 2) / (1 - A * dt / 2), dt / (1 - A * dt / 2)


def _frequencies(config: S4DConfig) -> np.ndarray:
    """Imaginary parts at the start, [N / 2]."""
    N, n = config.state_size, np.arange(config.state_size // 2)
    if config.init == "lin":
        return np.pi * n
    if config.init == "inv":
        return N / np.pi * (N / (2 * n + 1) - 1)
    return normal_spectrum("legs", N)[0].imag
