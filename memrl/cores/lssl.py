"""LSSL: linear state-space layers (Gu et al. 2021, "Combining Recurrent, Convolutional, and Continuous-time Models with
Linear State-Space Layers").

    x' = A x + B u,   y = C x + D u,   for each feature, with HiPPO-LegS as A and B, by the generalised bilinear rule:
    x_t = (I - alpha Delta A)^-1 ((I + (1 - alpha) Delta A) x_{t-1} + Delta B u_t)
        = (I - alpha Delta A)^-1 (x_{t-1} / alpha + Delta B u_t) - (1 - alpha) / alpha x_{t-1},   y_t = C x_t + D u_t.

Each feature has a step Delta of its own and M outputs; the layer's GELU and the projection of the M D outputs back to D
are part of the core: W GELU(y) + b. A is the whole lower triangular matrix, no approximation by its normal part. It is
-p_n p_k below the diagonal, so that x = (I - alpha Delta A)^-1 r takes O(N), with the sums s_n = sum_{k<n} p_k x_k:

    x_n = (r_n - a p_n s_n) / (1 + a (n + 1)),   a = alpha Delta.

A + A^T is negative definite, which makes every step with alpha >= 1/2 a contraction. A sequence goes in chunks with
exact resets: see memrl/cores/linear_system.py.

Left out: a learned A and B (as in the paper's LSSL-f, but Delta is learned); alpha below 1/2, where long steps blow up.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from memrl.cores.base import CoreConfig, Linear, MemoryCore
from memrl.cores.linear_system import LinearSystem, dense_chunk, unroll_system
from memrl.cores.state_space import check_steps, log_steps
from memrl.errors import check
from memrl.kernels import linear_scan
from memrl.types import Array


@dataclasses.dataclass(frozen=True)
class LSSLConfig(CoreConfig):
    """Hyperparameters of LSSL."""

    owner: ClassVar[str] = "core lssl"

    state_size: int = 64
    """Size N of each feature's state."""
    channels: int = 1
    """Number M of outputs of each feature's system."""
    alpha: float = 0.5
    """Rule of discretisation: 1/2 bilinear, 1 backward Euler."""
    dt_min: float = 1e-3
    """Smallest initial step Delta."""
    dt_max: float = 1e-1
    """Largest initial step Delta; each feature's step is drawn log-uniformly."""
    chunk_size: int = 32
    """Steps that are computed at once; results differ by rounding only."""

    def check(self) -> None:
        """Raises `MemrlError` for sizes below one, an unstable rule, or steps that are no interval above zero."""
        self.check_positive("state_size", "channels", "dt_min", "chunk_size")
        check(
            0.5 <= self.alpha <= 1,
            f"core lssl: alpha is {self.alpha}, expected from 0.5 (bilinear) to 1 (backward Euler)",
        )
        check_steps(self.owner, self.dt_min, self.dt_max)


class LSSL(MemoryCore):
    """Linear state-space layer; the state is x [B, D, N]."""

    parallel: ClassVar[bool] = True

    def __init__(self, features: int, config: LSSLConfig = LSSLConfig(), *, rngs: nnx.Rngs):
        self.features = features
        self.state_size, self.alpha, self.chunk_size = config.state_size, config.alpha, config.chunk_size
        M = config.channels
        self.log_dt = nnx.Param(log_steps((features,), config.dt_min, config.dt_max, rngs))
        self.output = nnx.Param(jax.random.normal(rngs.params(), (M, features, config.state_size)))  # C
        self.skip = nnx.Param(jax.random.normal(rngs.params(), (M, features)))  # D
        self.mix = Linear(M * features, features, rngs=rngs)

    def initial_state(self, batch_size: int) -> Array:
        """Zeros [B, D, N]."""
        return jnp.zeros((batch_size, self.features, self.state_size))

    def unroll(self, state: Array, xs: Array, resets: Array) -> tuple[Array, Array]:
        """See `MemoryCore.unroll`."""
        state, ys = unroll_system(self.system(), state, xs, resets, self.chunk_size)
        ys = ys.astype(xs.dtype) + self.skip[...].astype(xs.dtype)[None, None] * xs[:, :, None]  # [T, B, M, D]
        return state, self.mix(nnx.gelu(ys).reshape(*xs.shape[:2], -1))

    def system(self) -> LinearSystem:
        """The discretised systems."""
        dt = jnp.exp(self.log_dt[...])[:, None]
        n = jnp.arange(self.state_size)

        drive, read = dt * jnp.sqrt(2.0 * n + 1)[None], self.output[...]

        def step(x, u):
            solved = _solve(self.alpha * dt, x / self.alpha + drive[None] * u[..., None])
            x = solved - (1 - self.alpha) / self.alpha * x
            return x, jnp.sum(read[None] * x[:, None], -1)

        return LinearSystem(step, _solve(self.alpha * dt, drive[None])[0], read, dense_chunk)


def _solve(a: Array, r: Array) -> Array:
    """(I - a A)^-1 r for a [D, 1] and r [B, D, N]: substitution, s_{n+1} = (1 - a p_n^2 / g_n) s_n + p_n r_n / g_n."""
    n = jnp.arange(r.shape[-1])
    p = jnp.sqrt(2.0 * n + 1)[None, None]
    g = 1 + a[None] * (n + 1.0)[None, None]
    decay = jnp.broadcast_to((1 - a[None] * n[None, None]) / g, r.shape)
    sums, _ = linear_scan(jnp.moveaxis(decay, -1, 0), jnp.moveaxis(p * r / g, -1, 0))
    s = jnp.moveaxis(sums, 0, -1)
    s = jnp.concatenate([jnp.zeros_like(s[..., :1]), s[..., :-1]], -1)
    return (r - a[None] * p * s) / g
