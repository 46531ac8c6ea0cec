"""LMU, the Legendre memory unit (Voelker, Kajic & Eliasmith 2019): a linear memory of the past `window` steps.

u_t = E_x x_t + E_h h_{t-1} + E_m m_{t-1}                one number for each memory
m_t = A_bar m_{t-1} + B_bar u_t                          for each memory, `order` Legendre coefficients
h_t = tanh(W_x x_t + W_h h_{t-1} + W_m m_t)

A_bar and B_bar are HiPPO-LegT for a window of `window` steps, discretised by a zero-order hold, and fixed. The paper
writes LegT for polynomials that are not normalised; here they are orthonormal, which changes coordinates of m alone.

m_t is linear in what came before, so that (h, m) is one state s with s_t = phi(s_{t-1} U + x_t W), phi = tanh for h
and the identity for m: one product for each step, its weights assembled once for all steps.

Left out: memories that are trained, and the paper's option to leave out E_h and E_m (here E_m starts at zero).
"""

import dataclasses
from functools import cache
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from flax import nnx

from memrl.cores.base import CoreConfig, MemoryCore, readout
from memrl.cores.hippo import legt
from memrl.kernels.cells import Cell, cell_scan
from memrl.types import Array


@dataclasses.dataclass(frozen=True)
class LMUConfig(CoreConfig):
    """Hyperparameters of a Legendre memory unit."""

    owner: ClassVar[str] = "core lmu"

    hidden_size: int | None = None
    """Width N of h; the core's width D when not given."""
    memories: int = 8
    """Number of inputs u that are remembered; the paper has one."""
    order: int = 16
    """Legendre coefficients of each memory: how finely the window is resolved. The paper has 256 for 784 steps."""
    window: float = 64.0
    """Steps that a memory reaches back."""

    def check(self) -> None:
        """Raises `MemrlError` for sizes or a window not above zero."""
        self.check_positive("hidden_size", "memories", "order", "window")


class LMU(MemoryCore):
    """Legendre memory unit; its state is (h, m), [B, N + memories * order] float32."""

    parallel: ClassVar[bool] = False

    def __init__(self, features: int, config: LMUConfig = LMUConfig(), *, rngs: nnx.Rngs):
        self.features, self.config = features, config
        self.hidden_size = N = config.hidden_size or features
        self.size = config.memories * config.order
        sizes = {"x": features, "h": N, "m": self.size}
        lecun, glorot = jax.nn.initializers.lecun_uniform(), jax.nn.initializers.glorot_normal()
        encoders = {name: lecun(rngs.params(), (size, config.memories)) for name, size in sizes.items()}
        encoders["m"] *= 0
        self.encoders = nnx.Dict({name: nnx.Param(x) for name, x in encoders.items()})  # E, [., memories]
        kernels = {name: glorot(rngs.params(), (size, N)) for name, size in sizes.items()}
        self.kernels = nnx.Dict({name: nnx.Param(x) for name, x in kernels.items()})  # W, [., N]
        self.readout = readout(N, features, rngs)

    def initial_state(self, batch_size: int) -> Array:
        """Zeros [B, N + memories * order]."""
        return jnp.zeros((batch_size, self.hidden_size + self.size))

    def unroll(self, state: Array, xs: Array, resets: Array) -> tuple[Array, Array]:
        """See `MemoryCore.unroll`."""
        inputs, recurrent = self.joint_weights()
        gates = (xs @ inputs.astype(xs.dtype)).astype(jnp.float32)
        cell = _cell(self.hidden_size, self.size)
        states, (state,) = cell_scan(cell, gates, recurrent, (state,), resets, "xla")
        ys = states[..., : self.hidden_size].astype(xs.dtype)
        return state, ys if self.readout is None else self.readout(ys)

    def step(self, state: Array, x: Array, reset: Array) -> tuple[Array, Array]:
        """See `MemoryCore.step`. The equations as they stand: to assemble joint weights costs more than one step."""
        config, N = self.config, self.hidden_size
        A, B = discretised(config.order, config.window)
        state, wide = jnp.where(reset[:, None], 0, state), x.astype(jnp.float32)
        h, m = state[:, :N], state[:, N:]
        E, W = ({name: w[...] for name, w in weights.items()} for weights in (self.encoders, self.kernels))
        u = wide @ E["x"] + h @ E["h"] + m @ E["m"]
        m = m.reshape(-1, config.memories, config.order) @ jnp.asarray(A.T, jnp.float32)
        m = (m + u[..., None] * jnp.asarray(B, jnp.float32)[None, None]).reshape(len(x), -1)
        h = jnp.tanh(wide @ W["x"] + h @ W["h"] + m @ W["m"])
        y = h.astype(x.dtype)
        return jnp.concatenate([h, m], -1), y if self.readout is None else self.readout(y)

    def joint_weights(self) -> tuple[Array, Array]:
        """W [D, N + M] and U [N + M, N + M] of the joint state (h, m), M = memories * order."""
        config = self.config
        A, B = discretised(config.order, config.window)
        A = jnp.asarray(np.kron(np.eye(config.memories), A.T), jnp.float32)  # m A is the memories' decay
        B = jnp.asarray(np.kron(np.eye(config.memories), B[None]), jnp.float32)  # [memories, M]: u B enters them
        to_m = {name: encoder[...] @ B for name, encoder in self.encoders.items()}
        to_m["m"] = to_m["m"] + A
        W = {name: kernel[...] for name, kernel in self.kernels.items()}
        to_h = {name: to_m[name] @ W["m"] for name in to_m}  # h sees m_t, not m_{t-1}
        to_h["x"], to_h["h"] = to_h["x"] + W["x"], to_h["h"] + W["h"]
        x, h, m = (jnp.concatenate([to_h[name], to_m[name]], 1) for name in ("x", "h", "m"))
        return x, jnp.concatenate([h, m])


@cache
def discretised(order: int, window: float) -> tuple[np.ndarray, np.ndarray]:
    """A_bar [order, order] and B_bar [order] of HiPPO-LegT over `window` steps, by a zero-order hold."""
    A, B = legt(order)
    A, B = A / window, B / window
    A_bar = scipy.linalg.expm(A)
    return A_bar, np.linalg.solve(A, (A_bar - np.eye(order)) @ B)


@cache
def _cell(hidden: int, memory: int) -> Cell:
    """tanh for the first numbers of the state, and the identity for the others."""
    is_h = np.arange(hidden + memory)[None] < hidden

    def forward(gates, recurrent, states):
        del states
        z = gates[0] + recurrent[0]
        return (jnp.where(is_h, jnp.tanh(z), z),), ()

    def backward(dstates, before, after, saved):
        del before, saved
        (d,), (s,) = dstates, after
        d = jnp.where(is_h, d * (1 - s * s), d)
        return (jnp.zeros_like(d),), (d,), (d,)

    return Cell("lmu", 1, 1, 0, forward, backward, one_sum=True)
