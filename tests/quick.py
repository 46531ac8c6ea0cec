"""Compiling for tests: programs that run once or twice on small arrays, so that compiling is what takes the time."""

import functools
import os
from typing import Any

import jax

_UNOPTIMISED: dict[str, Any] = {"xla_backend_optimization_level": 0}
# The older emitters of loops take half the time; later versions of JAX do not have them.
_OLD_EMITTERS = {"xla_cpu_use_fusion_emitters": False} if jax.__version_info__ < (0, 11) else {}

precise_jit: Any = functools.partial(jax.jit, compiler_options=_UNOPTIMISED)
"""`jax.jit` without optimisations; numbers are as exact as those that users get."""

quick_jit: Any = functools.partial(jax.jit, compiler_options=_UNOPTIMISED | _OLD_EMITTERS)
"""`jax.jit` without optimisations, whose numbers may be off by a few more roundings."""


def quick_environment() -> dict[str, str]:
    """The environment of a process whose programs need not be optimised."""
    return {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0"}
