"""Compiling for tests: programs that run once or twice on small arrays, so that compiling is what takes the time."""

import functools
from typing import Any

import jax

OPTIONS: dict[str, Any] = {"xla_backend_optimization_level": 0}
if jax.__version_info__ < (0, 11):  # later versions have only the other emitters
    OPTIONS["xla_cpu_use_fusion_emitters"] = False

quick_jit: Any = functools.partial(jax.jit, compiler_options=OPTIONS)
"""`jax.jit` that compiles in half the time and does not optimise."""
