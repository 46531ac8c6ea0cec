"""One step of the linear recurrence and one of its adjoint, on planes: what its kernels share."""

import jax.numpy as jnp

from memrl.kernels.planes import Planes, add, times
from memrl.types import Array


def keep(cut: Array | None, planes: Planes) -> Planes:
    """`planes`, zero where `cut` is true; a selection, so that NaN and inf stay behind it."""
    return planes if cut is None else tuple(jnp.where(cut, 0.0, p) for p in planes)


def scan_step(h: Planes, a_t: Planes, b_t: Planes, cut: Array | None) -> Planes:
    """h_t from h_{t-1}."""
    return add(keep(cut, times(a_t, h)), b_t)


def adjoint_step(
    flow: Planes, a_t: Planes, before: Planes, g_t: Planes, cut: Array | None
) -> tuple[Planes, Planes, Planes]:
    """What flows to step t - 1, and the gradients of a_t and b_t.

    Args:
        flow: a_{t+1} lambda_{t+1}, zero where a reset cuts step t + 1.
        a_t: the decay of step t.
        before: h_{t-1}.
        g_t: the cotangent of h_t.
        cut: where a reset cuts step t.
    """
    adjoint = add(g_t, flow)
    return keep(cut, times(a_t, adjoint)), keep(cut, times(adjoint, before)), adjoint
