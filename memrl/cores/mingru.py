"""minGRU (Feng et al. 2024, "Were RNNs All We Needed?"): a GRU whose gates do not see the state: time is a scan.

z = sigmoid(W_z x + b_z),   c = W_c x + b_c
h' = (1 - z) h + z c

Left out: the form in logarithms, which the authors' code has: it keeps c above zero and cannot represent a reset; their
learned initial state; the paper's blocks of convolution and feed-forward, of which the stack supplies the latter.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from memrl.cores.base import CoreConfig, Linear, MemoryCore, readout
from memrl.kernels import linear_scan
from memrl.types import Array


@dataclasses.dataclass(frozen=True)
class MinGRUConfig(CoreConfig):
    """Hyperparameters of a minGRU."""

    owner: ClassVar[str] = "core mingru"

    hidden_size: int | None = None
    """Width N of the state; the core's width D when not given."""

    def check(self) -> None:
        """Raises `MemrlError` for a size below one."""
        self.check_positive("hidden_size")


class MinGRU(MemoryCore):
    """Minimal gated recurrent unit; its state is h [B, N] float32."""

    parallel: ClassVar[bool] = True

    def __init__(self, features: int, config: MinGRUConfig = MinGRUConfig(), *, rngs: nnx.Rngs):
        self.features = features
        self.hidden_size = N = config.hidden_size or features
        self.input = Linear(features, 2 * N, rngs=rngs)  # z, c
        self.readout = readout(N, features, rngs)

    def initial_state(self, batch_size: int) -> Array:
        """Zeros [B, N]."""
        return jnp.zeros((batch_size, self.hidden_size))

    def unroll(self, state: Array, xs: Array, resets: Array) -> tuple[Array, Array]:
        """See `MemoryCore.unroll`."""
        gate, candidate = jnp.split(self.input(xs).astype(jnp.float32), 2, -1)
        z = jax.nn.sigmoid(gate)
        hs, state = linear_scan(1 - z, z * candidate, state, resets)
        ys = hs.astype(xs.dtype)
        return state, ys if self.readout is None else self.readout(ys)
