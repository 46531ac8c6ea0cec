"""What the state-space cores share: complex matrices as real ones, initial time steps, and the activation at the end.

A complex matrix is stored as two planes, real and imaginary, side by side: products with it are real ones of twice the
width, at the speed of real products, and nothing is assembled on every step.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from memrl.cores.base import Linear
from memrl.errors import check
from memrl.types import Array

Activation = Literal["full_glu", "half_glu", "gelu", "none"]


class OutputActivation(nnx.Module):
    """GELU(y) W_1 * sigmoid(GELU(y) W_2) for "full_glu", GELU(y) * sigmoid(GELU(y) W) for "half_glu", GELU(y), or y."""

    def __init__(self, features: int, kind: Activation, *, rngs: nnx.Rngs):
        self.kind: Activation = kind
        gates = {"full_glu": 2, "half_glu": 1}.get(kind, 0)  # W_1 and W_2 are one product
        self.glu = Linear(features, gates * features, rngs=rngs) if gates else None

    def __call__(self, ys: Array) -> Array:
        """[T, B, D] to the same."""
        if self.kind == "none":
            return ys
        ys = nnx.gelu(ys)
        if self.glu is None:
            return ys
        if self.kind == "half_glu":
            return ys * nnx.sigmoid(self.glu(ys))
        value, gate = jnp.split(self.glu(ys), 2, -1)
        return value * nnx.sigmoid(gate)


def planes(x: np.ndarray) -> Array:
    """A complex array [...] as its real and imaginary parts, [2, ...] float32."""
    return jnp.asarray(np.stack([np.real(x), np.imag(x)]), jnp.float32)


def into_complex(xs: Array, matrix: Array) -> Array:
    """Real `xs` [T, B, D] times a complex matrix as planes [D, 2N], complex64 [T, B, N]."""
    real, imag = jnp.split((xs @ matrix.astype(xs.dtype)).astype(jnp.float32), 2, -1)
    return jax.lax.complex(real, imag)


def real_part(hs: Array, matrix: Array, dtype: jnp.dtype) -> Array:
    """Re(C h) for complex `hs` [T, B, N] and C, transposed, as planes [2N, D]; [T, B, D] in `dtype`."""
    return jnp.concatenate([hs.real, -hs.imag], -1).astype(dtype) @ matrix.astype(dtype)


def parts_of(x: Array) -> Array:
    """Complex [..., N / 2] as reals [..., N]: the real parts, then the imaginary parts."""
    return jnp.concatenate([x.real, x.imag], -1)


def rotate(decay: Array, x: Array, added: Array) -> tuple[Array, Array]:
    """Real and imaginary parts, [B, D, N / 2], of the complex `decay` [D, N] x + added [B, D, N], all in parts.

    Several times as fast on a CPU as with complex numbers. The caller puts the parts together after all other use of
    them: what is fused with a concatenation asks for every number which part it comes from, at ten times the cost.
    """
    (a, b), (real, imag), (p, q) = (jnp.split(y, 2, -1) for y in (decay[None], x, added))
    return a * real - b * imag + p, a * imag + b * real + q


def read_parts(parts: tuple[Array, Array], weight: Array) -> Array:
    """The sum of a `weight` [D, N] times a state, of which `parts` are the halves; [B, 1, D]."""
    (c, d), (real, imag) = jnp.split(weight[None], 2, -1), parts
    return jnp.sum(c * real + d * imag, -1)[:, None]


def skip(xs: Array, weight: Array) -> Array:
    """D u: `xs` [T, B, D] times a weight for each feature."""
    return weight.astype(xs.dtype)[None, None] * xs


def zero_order_hold(eigenvalues: Array, dt: Array) -> tuple[Array, Array]:
    """exp(Lambda Delta), and (exp(Lambda Delta) - 1) / Lambda.

    Near zero the second is a power series: the quotient's gradient is a difference of almost equal numbers.
    """
    z = eigenvalues * dt
    small = jnp.abs(z) < 0.5
    series = jnp.ones_like(z)
    for k in range(9, 1, -1):
        series = 1 + jnp.where(small, z, 0) / k * series
    away = jnp.where(small, 1, z)
    return jnp.exp(z), dt * jnp.where(small, series, jnp.expm1(away) / away)


def log_steps(shape: tuple[int, ...], low: float, high: float, rngs: nnx.Rngs) -> Array:
    """Logarithms of time steps, drawn uniformly between those of `low` and `high`."""
    return jax.random.uniform(rngs.params(), shape, minval=math.log(low), maxval=math.log(high))


def check_steps(owner: str, low: float, high: float) -> None:
    """Raises `MemrlError` unless dt_min and dt_max are an interval."""
    check(high >= low, f"{owner}: dt_max is {high}, expected at least {low}")


def check_pairs(owner: str, state_size: int) -> None:
    """Raises `MemrlError` unless the state is made of conjugate pairs."""
    check(state_size % 2 == 0, f"{owner}: state_size is {state_size}, expected an even number")
