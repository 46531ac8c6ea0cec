"""RWKV-7's time mixing (Peng et al. 2025, "RWKV-7 Goose with Expressive Dynamic State Evolution").

    x^i_t = x_t + mu_i * (x_{t-1} - x_t)                                for each i of r, d, k, v, a, g
    r, k, v = W_r x^r, W_k x^k, W_v x^v,   g = G_2 sigmoid(G_1 x^g)
    w = exp(-exp(-1/2) sigmoid(D_2 tanh(D_1 x^d) + d_0)),   a = sigmoid(A_2 A_1 x^a + a_0)
    kappa = xi * k, scaled to length 1,   k~ = k * (1 + alpha * (a - 1))          in each head
    S_t = (diag(w_t) - (a_t * kappa_t) kappa_t^T) S_{t-1} + k~_t v_t^T
    y_t = W_o (g_t * (norm(S_t^T r_t) + (r_t . (rho * k~_t)) v_t))

The previous input x_{t-1} is zero at the start of an episode. What is removed (along kappa, at the rate a of each
channel) need not be what is written. G, D and A have few columns between their two matrices; S is transposed here.

Left out: the value residual, which mixes the first layer's v into those of later layers; the channel mixing, for which
the stack has its feed-forward. Parameters start as a first layer's do in the authors' code, but for two kinds that
start at zero there: W_o, and G_1, D_1 and A_1 (until those move, nothing that they feed does). Their ranks are at most
D here.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from memrl.cores.base import Linear, MemoryCore, orthogonal
from memrl.cores.heads import HeadNorm, HeadsConfig, merge_heads, split_heads, unit
from memrl.cores.linear_attention import kernel_backend
from memrl.kernels import dplr_delta_rule
from memrl.types import Array

LEAST_LOG_DECAY = -math.exp(-0.5)
MIXES = {"r": 0.2, "d": 0.9, "k": 0.7, "v": 0.7, "a": 0.9, "g": 0.2}  # how mu starts: 1 - (channel / D)^exponent


@dataclasses.dataclass(frozen=True)
class RWKV7Config(HeadsConfig):
    """Hyperparameters of RWKV-7's time mixing."""

    owner: ClassVar[str] = "core rwkv7"

    decay_rank: int | None = None
    """Columns of D_1; when not given, 1.8 sqrt(D) to the nearest multiple of 32, at least 32 and at most D."""
    rate_rank: int | None = None
    """Columns of A_1; when not given, as those of D_1."""
    gate_rank: int | None = None
    """Columns of G_1; when not given, 0.6 D^0.8 to the nearest multiple of 32, at least 32 and at most D."""

    def check(self) -> None:
        """Raises `MemrlError` for a size below one."""
        super().check()
        self.check_positive("decay_rank", "rate_rank", "gate_rank")


class RWKV7State(NamedTuple):
    """What an episode leaves."""

    x: Array  # [B, D], the last input
    S: Array  # [B, H, K, V]


class RWKV7(MemoryCore):
    """RWKV-7's time mixing; its state is the last input and S."""

    parallel: ClassVar[bool] = True

    def __init__(self, features: int, config: RWKV7Config = RWKV7Config(), *, rngs: nnx.Rngs):
        self.features = D = features
        self.heads, self.key_width, self.value_width = H, K, V = config.head_sizes(features)
        channel = jnp.arange(D) / D
        self.mix = nnx.Param(jnp.stack([1 - channel**exponent for exponent in MIXES.values()]))
        self.r = Linear(D, H * K, use_bias=False, kernel_init=_uniform(0.5), rngs=rngs)
        self.k = Linear(D, H * K, use_bias=False, kernel_init=_uniform(0.05), rngs=rngs)
        self.v = Linear(D, H * V, use_bias=False, kernel_init=_uniform(0.5), rngs=rngs)
        rank = _rank(1.8 * D**0.5, D)
        self.decay = LowRank(D, config.decay_rank or rank, H * K, jnp.tanh, rngs=rngs)
        self.rate = LowRank(D, config.rate_rank or rank, H * K, lambda x: x, rngs=rngs)
        gate_rank = config.gate_rank or _rank(0.6 * D**0.8, D)
        self.gate = LowRank(D, gate_rank, H * V, nnx.sigmoid, use_bias=False, rngs=rngs)
        rising, in_head = jnp.linspace(-0.5, 0.5, H * K), jnp.tile(jnp.linspace(-1, 1, K), H)
        in_head = in_head * jnp.abs(in_head)
        self.decay.start_at(6 * rising - 2.5 + 2.5 * in_head)
        self.rate.start_at(-0.19 + 0.3 * in_head + 0.4 * rising)
        self.removal = nnx.Param((0.71 - 0.1 * rising).reshape(H, K))  # xi
        self.replacement = nnx.Param(jnp.full((H, K), 1.02))  # alpha
        self.bonus = nnx.Param(jnp.full((H, K), -0.04))  # rho
        self.norm = HeadNorm(H, V, epsilon=64e-5, centred=True, use_bias=True)
        self.output = Linear(H * V, D, use_bias=False, rngs=rngs)

    def initial_state(self, batch_size: int) -> RWKV7State:
        """Zeros."""
        S = jnp.zeros((batch_size, self.heads, self.key_width, self.value_width))
        return RWKV7State(jnp.zeros((batch_size, self.features)), S)

    def unroll(self, state: RWKV7State, xs: Array, resets: Array) -> tuple[RWKV7State, Array]:
        """See `MemoryCore.unroll`."""
        inputs = jnp.concatenate([state.x[None], xs.astype(jnp.float32)])
        change = jnp.where(resets[..., None], 0, inputs[:-1]).astype(xs.dtype) - xs
        mixed = [xs + change * mu[None, None] for mu in self.mix[...].astype(xs.dtype)]
        layers = self.r, self.decay, self.k, self.v, self.rate, self.gate
        # Between the projections in float32: normalised heads would magnify the rounding of bfloat16.
        made = (layer(x).astype(jnp.float32) for layer, x in zip(layers, mixed, strict=True))
        r, d, k, v, a, g = (split_heads(x, self.heads) for x in made)
        a = nnx.sigmoid(a)
        kappa = unit(k * self.removal[...][None, None], epsilon=1e-12)  # keys start small
        k = k * (1 + self.replacement[...][None, None] * (a - 1))
        o, S = dplr_delta_rule(
            r,
            k,
            v,
            -kappa,
            a * kappa,
            LEAST_LOG_DECAY * nnx.sigmoid(d),
            s0=state.S,
            reset=resets,
            least_log_decay=LEAST_LOG_DECAY,
            backend=kernel_backend(xs),
        )
        now = jnp.sum(r * self.bonus[...][None, None] * k, -1, keepdims=True)
        y = merge_heads(g * (self.norm(o) + now * v)).astype(xs.dtype)
        return RWKV7State(inputs[-1], S), self.output(y)


class LowRank(nnx.Module):
    """x to W_2 f(W_1 x) + b, with few columns between."""

    def __init__(
        self, features: int, rank: int, width: int, f: Callable[[Array], Array], *, use_bias=True, rngs: nnx.Rngs
    ):
        self.f = f
        self.first = Linear(features, rank, use_bias=False, rngs=rngs)
        scale = 0.1 * max(1, rank / width) ** 0.5
        self.second = Linear(rank, width, use_bias=use_bias, kernel_init=orthogonal(scale), rngs=rngs)

    def __call__(self, xs: Array) -> Array:
        """[T, B, D] to [T, B, width]."""
        return self.second(self.f(self.first(xs)))

    def start_at(self, bias: Array) -> None:
        """What it gives before it learns, about."""
        assert self.second.bias is not None
        self.second.bias[...] = bias


def _rank(size: float, features: int) -> int:
    return min(features, max(32, 32 * round(size / 32)))


def _uniform(bound: float) -> jax.nn.initializers.Initializer:
    """Within `bound` / sqrt(fan-in) on either side of zero."""
    return jax.nn.initializers.variance_scaling(bound**2 / 3, "fan_in", "uniform")
