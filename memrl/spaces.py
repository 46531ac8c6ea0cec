"""Observation and action spaces, with the names and attributes of gymnax's, which need not be imported for them."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from memrl.types import Array, Key, PyTree


class Space:
    """What a value may be. Spaces that allow the same values are equal, and hashable."""

    def sample(self, key: Key) -> Any:
        """A uniform sample."""
        raise NotImplementedError

    def contains(self, x: PyTree) -> Array:
        """Whether `x` lies in the space: [] bool."""
        raise NotImplementedError

    def _content(self) -> Hashable:
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Space) and type(self) is type(other) and self._content() == other._content()

    def __hash__(self) -> int:
        return hash((type(self), self._content()))


class Discrete(Space):
    """An integer in [0, n): int32 []."""

    def __init__(self, n: int):
        if n < 1:
            raise ValueError(f"Discrete needs at least 1 value, got {n}")
        self.n = int(n)
        self.shape = ()
        self.dtype = jnp.int32

    def __repr__(self) -> str:
        return f"Discrete({self.n})"

    def _content(self) -> Hashable:
        return self.n

    def sample(self, key: Key) -> Array:
        """A uniform sample."""
        return jax.random.randint(key, (), 0, self.n)

    def contains(self, x: PyTree) -> Array:
        """Whether `x` [] lies in the space."""
        return (x >= 0) & (x < self.n)


class MultiDiscrete(Space):
    """Several independent integers: int32 [len(sizes)], the i-th in [0, sizes[i])."""

    def __init__(self, sizes: Sequence[int]):
        if not sizes or min(sizes) < 1:
            raise ValueError(f"MultiDiscrete needs at least one size, each at least 1, got {tuple(sizes)}")
        self.sizes = tuple(int(n) for n in sizes)
        self.shape = (len(self.sizes),)
        self.dtype = jnp.int32

    def __repr__(self) -> str:
        return f"MultiDiscrete{self.sizes}"

    def _content(self) -> Hashable:
        return self.sizes

    def sample(self, key: Key) -> Array:
        """A uniform sample."""
        return jax.random.randint(key, self.shape, 0, jnp.asarray(self.sizes))

    def contains(self, x: PyTree) -> Array:
        """Whether `x` [len(sizes)] lies in the space."""
        return jnp.all((x >= 0) & (x < jnp.asarray(self.sizes)))


class Box(Space):
    """Numbers between `low` and `high`, each a number or an array of the given shape."""

    def __init__(self, low: Any, high: Any, shape: Sequence[int], dtype: Any = jnp.float32):
        self.low = low  # may be traced, where a bound depends on the environment's params
        self.high = high
        self.shape = tuple(shape)
        self.dtype = jnp.dtype(dtype)

    def __repr__(self) -> str:
        return f"Box({self.low}, {self.high}, {self.shape}, {self.dtype})"

    def _content(self) -> Hashable:
        bounds = (np.broadcast_to(bound, self.shape).astype(float).tobytes() for bound in (self.low, self.high))
        return self.shape, self.dtype, *bounds

    def sample(self, key: Key) -> Array:
        """A uniform sample; the bounds must be finite."""
        low, high = (jnp.broadcast_to(b, self.shape).astype(jnp.float32) for b in (self.low, self.high))
        return jax.random.uniform(key, self.shape, minval=low, maxval=high).astype(self.dtype)

    def contains(self, x: PyTree) -> Array:
        """Whether `x` [*shape] lies in the space."""
        low, high = (jnp.broadcast_to(bound, self.shape) for bound in (self.low, self.high))
        return jnp.all((x >= low) & (x <= high))


class Dict(Space):
    """A dict of values, one for each named space."""

    def __init__(self, spaces: Mapping[str, Space]):
        self.spaces = dict(spaces)

    def __repr__(self) -> str:
        return f"Dict({self.spaces!r})"

    def _content(self) -> Hashable:
        return tuple(sorted(self.spaces.items(), key=lambda item: item[0]))

    def sample(self, key: Key) -> dict[str, Any]:
        """A uniform sample of each."""
        keys = jax.random.split(key, len(self.spaces))
        return {name: space.sample(k) for (name, space), k in zip(self.spaces.items(), keys, strict=True)}

    def contains(self, x: PyTree) -> Array:
        """Whether every value lies in its space."""
        return jnp.all(jnp.stack([space.contains(x[name]) for name, space in self.spaces.items()]))


class Tuple(Space):
    """A tuple of values, one for each space."""

    def __init__(self, spaces: Sequence[Space]):
        self.spaces = tuple(spaces)

    def __repr__(self) -> str:
        return f"Tuple({self.spaces!r})"

    def _content(self) -> Hashable:
        return self.spaces

    def sample(self, key: Key) -> tuple[Any, ...]:
        """A uniform sample of each."""
        keys = jax.random.split(key, len(self.spaces))
        return tuple(space.sample(k) for space, k in zip(self.spaces, keys, strict=True))

    def contains(self, x: PyTree) -> Array:
        """Whether every value lies in its space."""
        return jnp.all(jnp.stack([space.contains(v) for space, v in zip(self.spaces, x, strict=True)]))


def space_to_json(space: Space) -> dict[str, Any]:
    """A space as JSON values: its kind, and what makes it this one; a bound that is infinite is null.

    Raises:
        TypeError: for a space of another kind than those above.
    """
    kind = {"kind": type(space).__name__}
    match space:
        case Discrete():
            return kind | {"n": space.n}
        case MultiDiscrete():
            return kind | {"sizes": list(space.sizes)}
        case Box():
            bounds = {"low": _bound_to_json(space.low), "high": _bound_to_json(space.high)}
            return kind | {"shape": list(space.shape), "dtype": jnp.dtype(space.dtype).name} | bounds
        case Dict():
            return kind | {"spaces": {name: space_to_json(part) for name, part in space.spaces.items()}}
        case Tuple():
            return kind | {"spaces": [space_to_json(part) for part in space.spaces]}
    raise TypeError(f"space is {space!r}, expected Discrete, MultiDiscrete, Box, Dict or Tuple")


def _bound_to_json(bound: Any) -> Any:
    """One number where all are the same."""
    values = np.asarray(bound, float)
    if values.size and (values == values.flat[0]).all():
        return float(values.flat[0]) if np.isfinite(values.flat[0]) else None
    return np.where(np.isfinite(values), values.astype(object), np.array(None)).tolist()
