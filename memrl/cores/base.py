"""The contract that every memory core satisfies, and the pieces that cores share."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from memrl.config import Config
from memrl.types import Array, Key, State


@dataclasses.dataclass(frozen=True)
class CoreConfig(Config):
    """Hyperparameters of a core: each core's file holds its own subclass, whose `owner` is "core NAME"."""

    owner: ClassVar[str] = "core"


class Extras(NamedTuple):
    """What an unroll leaves besides its state and outputs."""

    readout: Array | None  # [T, B, M] what was read from the memory, for later layers
    metrics: dict[str, Array]  # scalars for the logs of training


class MemoryCore(nnx.Module):
    """Maps a sequence of D features to a sequence of D features through a recurrent state.

    A core implements `initial_state` and `unroll`. `reset` marks the first observation of an episode: the state before
    it is consumed is the initial state, and nothing that happened before may leak through, in values or in gradients,
    NaN and inf included (select with `where`, never multiply by zero). `unroll` over T steps equals T calls of `step`,
    and any split of T into consecutive unrolls. The state is float32 (or complex64, or integer counters) whatever the
    dtype of `x`; `y` has the dtype of `x`. tests/cores/test_contract.py holds every registered core to this.
    """

    features: int  # D
    parallel: ClassVar[bool]  # whether `unroll` can compute all steps at once, given enough lanes
    metrics: ClassVar[tuple[str, ...]] = ()  # names of what `unroll_with_extras` measures

    def initial_state(self, batch_size: int) -> State:
        """The state at the start of an episode: a pytree whose leaves are [B, ...]."""
        raise NotImplementedError

    def unroll(self, state: State, xs: Array, resets: Array) -> tuple[State, Array]:
        """T steps: `xs` [T, B, D] and `resets` [T, B] bool give the last state and `ys` [T, B, D]."""
        raise NotImplementedError

    def step(self, state: State, x: Array, reset: Array) -> tuple[State, Array]:
        """One step: `x` [B, D] and `reset` [B] bool give the next state and `y` [B, D]."""
        state, ys = self.unroll(state, x[None], reset[None])
        return state, ys[0]

    def unroll_with_readout(self, state: State, xs: Array, resets: Array) -> tuple[State, Array, Array]:
        """`unroll`, and what was read from the memory at each step, for later layers (see `gmu`): [T, B, M].

        That is the sequence before the core's gate and output projection, where it has such, and `ys` where it has not.
        """
        state, ys = self.unroll(state, xs, resets)
        return state, ys, ys

    def unroll_with_extras(self, state: State, xs: Array, resets: Array) -> tuple[State, Array, Extras]:
        """`unroll_with_readout`, and the core's `metrics` of this sequence, by name."""
        state, ys, readout = self.unroll_with_readout(state, xs, resets)
        return state, ys, Extras(readout, {})

    def attention_map(self, xs: Array, resets: Array) -> Array | None:
        """What each of T steps from the start looks at, of a core that attends: weights [B, T, H, T], else None.

        Rows sum to 1, or to less where something else than steps is looked at as well.
        """
        del xs, resets
        return None

    @property
    def readout_features(self) -> int:
        """Width M of the readout."""
        return self.features


def _follow_input(arrays: Any, /, *, dtype: Any = None, inexact: bool = True, **_: Any) -> Any:
    """Compute in the dtype of the input (the first array), whatever the parameters are stored in."""
    return tuple(None if a is None else jnp.asarray(a, dtype or arrays[0].dtype) for a in arrays)


Linear = partial(nnx.Linear, promote_dtype=_follow_input)
"""`flax.nnx.Linear` with float32 parameters that computes in the dtype of its input.

Kernels start LeCun-normal and biases at zero, wherever a paper has no start of its own.
"""

Conv = partial(nnx.Conv, promote_dtype=_follow_input)
"""`flax.nnx.Conv` with float32 parameters that computes in the dtype of its input."""

LayerNorm = partial(nnx.LayerNorm, promote_dtype=_follow_input)
"""`flax.nnx.LayerNorm` with float32 parameters and statistics whose output has the dtype of its input."""


def orthogonal(scale: float = 1.0) -> jax.nn.initializers.Initializer:
    """Orthogonal matrices times `scale`; under `vmap`, as over seeds, one matrix at a time.

    The batched QR decompositions of jaxlib 0.10 wait for each other forever when a program has several of them and the
    CPU few cores.
    """
    draw = jax.nn.initializers.orthogonal(scale)

    def init(key: Key, shape: Sequence[int], dtype: Any = jnp.float32, out_sharding: Any = None) -> Array:
        return jax.custom_batching.sequential_vmap(lambda k: draw(k, shape, dtype, out_sharding))(key)

    return init


def readout(width: int, features: int, rngs: nnx.Rngs) -> nnx.Linear | None:
    """The projection from a state of `width` back to D features; none when they agree."""
    return None if width == features else Linear(width, features, rngs=rngs)
