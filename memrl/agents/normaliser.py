"""Running statistics that keep observations and rewards near unit scale."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from memrl.types import Array, Observation, PyTree

_CLIP = 10.0  # standard deviations


class Moments(NamedTuple):
    """Count, mean and variance of everything seen, one per component."""

    samples: Array  # [] float32
    mean: PyTree  # leaves [...]
    variance: PyTree  # leaves [...]


def init_moments(example: PyTree) -> Moments:
    """Moments of nothing: mean 0 and variance 1, shaped like `example`."""
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), example)
    return Moments(jnp.float32(0), zeros, jax.tree.map(jnp.ones_like, zeros))


def update_moments(moments: Moments, batch: PyTree, batch_axes: int) -> Moments:
    """Adds a batch whose leaves have `batch_axes` leading axes more than the moments (Chan et al. 1979)."""
    axes = tuple(range(batch_axes))
    size = jax.tree.leaves(batch)[0].size // max(1, jax.tree.leaves(moments.mean)[0].size)
    total = moments.samples + size

    def merge(mean, variance, x):
        x = x.astype(jnp.float32)
        batch_mean, batch_variance = x.mean(axes), x.var(axes)
        shift = batch_mean - mean
        spread = moments.samples * variance + size * batch_variance
        spread = spread + jnp.square(shift) * (moments.samples * size / total)
        return mean + shift * (size / total), spread / total

    merged = jax.tree.map(merge, moments.mean, moments.variance, batch)
    mean, variance = jax.tree.transpose(jax.tree.structure(batch), jax.tree.structure((0, 0)), merged)
    return Moments(total, mean, variance)


def normalise(moments: Moments, observation: Observation) -> Observation:
    """Observations [..., *shape] in standard deviations from the mean, clipped; integers pass as they are."""

    def leaf(x, mean, variance):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        leading = (1,) * (x.ndim - mean.ndim)
        mean, variance = mean.reshape(leading + mean.shape), variance.reshape(leading + mean.shape)
        return jnp.clip((x - mean) * jax.lax.rsqrt(variance + 1e-8), -_CLIP, _CLIP).astype(x.dtype)

    return jax.tree.map(leaf, observation, moments.mean, moments.variance)
