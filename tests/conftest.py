"""Strict numerics and a cache of compiled programs, for all tests.

This file also puts `tests/` on the import path (pytest's default, "prepend"), so that shared helpers are
imported by folder: `from cores.numeric import ...`. There is no `__init__.py`; file names are unique.
"""

import gc
import itertools
import os
from pathlib import Path

import jax
import pytest

pytest.register_assert_rewrite("cores.core_contract", "cores.numeric", "cell_checks")  # they hold tests


def pytest_configure(config):
    jax.config.update("jax_numpy_rank_promotion", "raise")
    _keep_compiled_programs(config)


def pytest_collection_modifyitems(items):
    """Files whose tests start processes come first: they take longest, and no worker should end alone with one."""
    items.sort(key=lambda item: item.path.parent.name not in ("cli", "runner"))


def _keep_compiled_programs(config):
    # Workers share one folder without a lock. Entries are named by a hash of program and compiler, and hold a
    # checksum: a worker that meets a half-written one gets this warning, and compiles for itself.
    config.addinivalue_line("filterwarnings", "ignore:Error reading persistent compilation cache entry")
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(caches) / "memrl" / "compiled_tests"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


_tests_run = itertools.count(1)


def pytest_runtest_teardown(item, nextitem):
    """Drops compiled programs before a worker runs out of memory mappings, of which Linux grants 65,530.

    Every kernel of a compiled program takes some. Those still needed come back from the cache on disk.
    """
    if next(_tests_run) % 20 == 0 and _mappings() > 20_000:
        jax.clear_caches()
        gc.collect()


def _mappings() -> int:
    maps = Path("/proc/self/maps")
    return len(maps.read_text().splitlines()) if maps.exists() else 0
