"""S4D: a diagonal state space of its own for each feature (Gu, Gupta, Goel & Ré 2022, "On the Parameterization and
Initialization of Diagonal State Space Models").

    x' = A x + B u,   y = 2 Re(C x) + D u,   with A diagonal, one of each conjugate pair, and B = 1, in discrete steps:
    zero-order hold  A_bar = exp(A Delta),                         B_bar = (exp(A Delta) - 1) / A,
    bilinear         A_bar = (1 + A Delta / 2) / (1 - A Delta / 2),   B_bar = Delta / (1 - A Delta / 2),
    x_t = A_bar x_{t-1} + B_bar u_t,   y_t = 2 Re(C x_t) + D u_t.

A = -exp(a) + i b starts at the real part -1/2 and, for the n-th of N / 2 pairs, at the imaginary part
    lin   pi n,
    inv   (N / pi) (N / (2n + 1) - 1),
    legs  that of the normal part of HiPPO-LegS.
The layer's gated activation, which mixes the features, is part of the core here: GELU(y) W_1 * sigmoid(GELU(y) W_2).

Left out: a learned B (only its product with C matters), bidirectional kernels, a learning rate of its own for A, Delta.
"""

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from memrl.cores.base import CoreConfig, MemoryCore
from memrl.cores.hippo import normal_spectrum
from memrl.cores.state_space import (
    Activation,
    OutputActivation,
    check_pairs,
    check_steps,
    log_steps,
    skip,
    zero_order_hold,
)
from memrl.kernels import linear_scan
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

    def check(self) -> None:
        """Raises `MemrlError` for an odd size, or steps that are no interval above zero."""
        self.check_positive("state_size", "dt_min")
        check_pairs(self.owner, self.state_size)
        check_steps(self.owner, self.dt_min, self.dt_max)


class S4D(MemoryCore):
    """Diagonal state spaces; the state is x [B, D, N / 2] complex64."""

    def __init__(self, features: int, config: S4DConfig = S4DConfig(), *, rngs: nnx.Rngs):
        self.features = features
        self.pairs = config.state_size // 2
        self.discretisation = config.discretisation
        shape = (features, self.pairs)
        self.log_real = nnx.Param(jnp.full(shape, jnp.log(0.5)))  # a [D, N / 2]
        self.imag = nnx.Param(jnp.tile(jnp.asarray(_frequencies(config), jnp.float32), (features, 1)))  # b [D, N / 2]
        self.output = nnx.Param(jax.random.normal(rngs.params(), (2, *shape)))  # C [2, D, N / 2], as planes
        self.skip = nnx.Param(jax.random.normal(rngs.params(), (features,)))  # D [D]
        self.log_dt = nnx.Param(log_steps((features,), config.dt_min, config.dt_max, rngs))
        self.activation = OutputActivation(features, config.activation, rngs=rngs)

    def initial_state(self, batch_size: int) -> Array:
        """Zeros [B, D, N / 2] complex64."""
        return jnp.zeros((batch_size, self.features, self.pairs), jnp.complex64)

    def unroll(self, state: Array, xs: Array, resets: Array) -> tuple[Array, Array]:
        """See `MemoryCore.unroll`."""
        T, B, D = xs.shape
        decay, scale = self.discretise()
        inputs = scale[None, None] * xs.astype(jnp.float32)[..., None]
        hs, last = linear_scan(decay.reshape(-1), inputs.reshape(T, B, -1), state.reshape(B, -1), resets)
        hs = hs.reshape(T, B, D, -1)
        real, imag = 2 * self.output[...]
        ys = jnp.sum(hs.real * real[None, None] - hs.imag * imag[None, None], -1)
        return last.reshape(state.shape), self.activation(ys.astype(xs.dtype) + skip(xs, self.skip[...]))

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
