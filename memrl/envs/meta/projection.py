"""A disguise that is drawn anew for each episode: a linear projection of what is seen, a permutation of what is done.

Source: Lu et al. 2023, "Structured State Space Models for In-Context Reinforcement Learning",
https://arxiv.org/abs/2303.03982, and its code.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from memrl.envs.base import EnvParams, EnvState, StepResult
from memrl.envs.compute_where import compute_where
from memrl.envs.flatten import flat_space, flatten
from memrl.envs.wrappers import Wrapper
from memrl.errors import check
from memrl.spaces import Box, Discrete
from memrl.types import Array, Key, Observation


class Disguise(NamedTuple):
    """What stands between the agent and its environment for one episode."""

    matrix: Array  # [features, D] float32
    permutation: Array | None  # [actions] int32, what each action does; None if it does what it says

    def show(self, flat: Array) -> Array:
        """The projection [features] of a flat observation [D]."""
        # A sum of products, not `@`, which a GPU may round to TF32.
        return jnp.sum(self.matrix * flat[None, :], axis=1)

    def translate(self, action: Array) -> Array:
        """What `action` does."""
        if self.permutation is None:
            return action
        return jnp.sum(jnp.where(jnp.arange(len(self.permutation)) == action, self.permutation, 0))


def draw_disguise(key: Key, size: int, features: int, num_actions: int = 0, orthogonal: bool = False) -> Disguise:
    """For flat observations [size], and for actions too if there are any: see `RandomProjection`."""
    matrix_key, action_key = jax.random.split(key)
    if orthogonal:
        rows = orthonormal_rows(matrix_key, min(size, features), max(size, features))
        matrix = math.sqrt(2) * (rows if features <= size else rows.T)
    else:
        matrix = math.sqrt(2 / max(size, features)) * jax.random.normal(matrix_key, (features, size), jnp.float32)
    permutation = jnp.argsort(jax.random.uniform(action_key, (num_actions,))).astype(jnp.int32)
    return Disguise(matrix, permutation if num_actions else None)


def orthonormal_rows(key: Key, num_rows: int, size: int) -> Array:
    """The first rows of a uniformly random (Haar) rotation, [num_rows, size] float32."""

    def add(rows, x):
        i, row = x
        for _ in range(2):  # the second round removes what rounding left of the first
            shares = jnp.sum(rows * row[None, :], axis=1, keepdims=True)
            row = row - jnp.sum(shares * rows, axis=0)
        row = row / jnp.linalg.norm(row)
        return jnp.where(jnp.arange(num_rows)[:, None] == i, row[None, :], rows), None

    # Gram-Schmidt: JAX's QR calls a library, slow for a batch of small matrices.
    gaussian = jax.random.normal(key, (num_rows, size), jnp.float32)
    return jax.lax.scan(add, jnp.zeros_like(gaussian), (jnp.arange(num_rows), gaussian), unroll=min(num_rows, 4))[0]


class RandomProjectionState(NamedTuple):
    """The inner state, and the disguise of the running episode."""

    env_state: EnvState
    disguise: Disguise


@dataclass(frozen=True)
class RandomProjection(Wrapper):
    """Projects the flattened observation (see `memrl.envs.flatten`) by a matrix drawn anew for each episode.

    The matrix [features, D] is Gaussian, its entries independent with mean 0 and variance 2 / max(D, features), or
    if `orthogonal`, uniform among those with orthogonal rows (columns where features > D) of length sqrt(2), as the
    authors' code draws it. Both have the same second moments: where features >= D, |W x|^2 is 2 |x|^2, on average or
    exactly. With `permute_actions`, a permutation of the actions is drawn with it, uniformly; the action space must
    be Discrete. Rewards and ends are those of the inner environment.

    An episode is that of the inner environment, so in `RandomProjection(Trials(env, n))` all trials share one
    disguise, and in `Trials(RandomProjection(env, d), n)` they do because they share their start.

    Observation: Box [features] float32, unbounded. Action: as inside. The state holds a matrix per environment.
    """

    features: int
    permute_actions: bool = False
    orthogonal: bool = False

    def __post_init__(self) -> None:
        """Raises `MemrlError` for less than one feature, and for a permutation of actions that are not Discrete."""
        check(self.features >= 1, f"features of RandomProjection is {self.features}, expected at least 1")
        if self.permute_actions:
            space = self.env.action_space(self.env.default_params)
            check(
                isinstance(space, Discrete),
                f"permute_actions of RandomProjection is True for actions in {space!r}, expected a Discrete space",
            )

    @property
    def answer_actions(self) -> tuple[int, ...]:
        """The inner environment's, unless actions change places."""
        return () if self.permute_actions else super().answer_actions

    def observation_space(self, params: EnvParams) -> Box:
        """An unbounded Box [features]."""
        return Box(-jnp.inf, jnp.inf, (self.features,), jnp.float32)

    def reset(self, key: Key, params: EnvParams = None) -> tuple[Array, RandomProjectionState]:
        """Draws the disguise, and shows the first observation under it."""
        params = self._or_default(params)
        key, disguise_key = jax.random.split(key)
        observation, env_state = self.env.reset(key, params)
        disguise = self._draw(disguise_key, params)
        return disguise.show(self._flat(observation, params)), RandomProjectionState(env_state, disguise)

    def step(self, key: Key, state: RandomProjectionState, action: Array, params: EnvParams = None) -> StepResult:
        """The final observation under the disguise of the episode that it ends, the next under its own."""
        params = self._or_default(params)
        key, disguise_key = jax.random.split(key)
        old = state.disguise
        observation, env_state, reward, terminated, truncated, info = self.env.step(
            key, state.env_state, old.translate(action), params
        )
        new = compute_where(terminated | truncated, self._draw, (disguise_key, params), old)
        info = {**info, "final_observation": old.show(self._flat(info["final_observation"], params))}
        observation = new.show(self._flat(observation, params))
        return observation, RandomProjectionState(env_state, new), reward, terminated, truncated, info

    def _draw(self, key: Key, params: EnvParams) -> Disguise:
        size = flat_space(self.env.observation_space(params)).shape[0]
        space = self.env.action_space(params)
        num_actions = space.n if self.permute_actions and isinstance(space, Discrete) else 0
        return draw_disguise(key, size, self.features, num_actions, self.orthogonal)

    def _flat(self, observation: Observation, params: EnvParams) -> Array:
        return flatten(self.env.observation_space(params), observation)
