"""MGU (Zhou et al. 2016, "Minimal Gated Unit for Recurrent Neural Networks"): a GRU with one gate for both purposes.

f = sigmoid(W_f x + b_f + U_f h)
c = tanh(W_c x + b_c + U_c (f * h))
h' = (1 - f) h + f c
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from memrl.cores.base import CoreConfig, Linear, MemoryCore, readout
from memrl.cores.gru import orthogonal_gates
from memrl.types import Array


@dataclasses.dataclass(frozen=True)
class MGUConfig(CoreConfig):
    """Hyperparameters of an MGU."""

    owner: ClassVar[str] = "core mgu"

    hidden_size: int | None = None
    """Width N of the state; the core's width D when not given."""

    def check(self) -> None:
        """Raises `MemrlError` for a size below one."""
        self.check_positive("hidden_size")


class MGU(MemoryCore):
    """Minimal gated unit; its state is h [B, N] float32."""

    parallel: ClassVar[bool] = False

    def __init__(self, features: int, config: MGUConfig = MGUConfig(), *, rngs: nnx.Rngs):
        self.features = features
        self.hidden_size = N = config.hidden_size or features
        self.input = Linear(features, 2 * N, rngs=rngs)  # f, c
        self.recurrent = nnx.Param(orthogonal_gates(2, N, rngs))  # [N, 2N]: U_f, U_c
        self.readout = readout(N, features, rngs)

    def initial_state(self, batch_size: int) -> Array:
        """Zeros [B, N]."""
        return jnp.zeros((batch_size, self.hidden_size))

    def unroll(self, state: Array, xs: Array, resets: Array) -> tuple[Array, Array]:
        """See `MemoryCore.unroll`."""
        gates = self.input(xs).astype(jnp.float32)
        hs, state = _scan(gates, *jnp.split(self.recurrent[...], 2, -1), state, resets)
        ys = hs.astype(xs.dtype)
        return state, ys if self.readout is None else self.readout(ys)


def _cell(gates: Array, U_f: Array, U_c: Array, h: Array) -> tuple[Array, Array, Array]:
    """The next state, f and c."""
    x_f, x_c = jnp.split(gates, 2, -1)
    f = jax.nn.sigmoid(x_f + h @ U_f)
    c = jnp.tanh(x_c + (f * h) @ U_c)
    return (1 - f) * h + f * c, f, c


def _keep(reset: Array, h: Array) -> Array:
    return jnp.where(reset[..., None], 0, h)


@jax.custom_vjp
def _scan(gates: Array, U_f: Array, U_c: Array, h0: Array, resets: Array) -> tuple[Array, Array]:
    """h [T, B, N] and the last one."""
    return _scan_forward(gates, U_f, U_c, h0, resets)[0]


def _scan_forward(gates, U_f, U_c, h0, resets):
    def step(h, now):
        x, reset = now
        h, f, c = _cell(x, U_f, U_c, _keep(reset, h))
        return h, (h, f, c)

    h_last, (h, f, c) = lax.scan(step, h0, (gates, resets))
    before = _keep(resets, jnp.concatenate([h0[None], h])[:-1])
    return (h, h_last), (U_f, U_c, before, f, c, resets)


def _scan_backward(residuals: Any, cotangents: Any) -> Any:
    """The weights' gradients are one product each after the scan."""
    U_f, U_c, before, f, c, resets = residuals
    g, g_last = cotangents
    to_f, to_c = U_f.T, U_c.T  # here, so that every step reads them in order

    def step(flow, now):
        g_t, h, f_t, c_t, reset = now
        d = g_t + flow
        d_c = d * f_t * (1 - c_t * c_t)
        d_fh = d_c @ to_c
        d_f = (d * (c_t - h) + d_fh * h) * f_t * (1 - f_t)
        flow = d * (1 - f_t) + d_fh * f_t + d_f @ to_f
        return _keep(reset, flow), (d_f, d_c)

    dh0, (d_f, d_c) = lax.scan(step, g_last, (g, before, f, c, resets), reverse=True)
    dU_f = jnp.einsum("tbn,tbm->nm", before, d_f)
    dU_c = jnp.einsum("tbn,tbm->nm", f * before, d_c)
    return jnp.concatenate([d_f, d_c], -1), dU_f, dU_c, dh0, None


_scan.defvjp(_scan_forward, _scan_backward)
