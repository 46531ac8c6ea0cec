"""Each core once more, as a loop over time in NumPy written from the paper's equations: `cores/references/NAME.py`.

Such a file has a function `reference`: it takes the core's configuration, its parameters by name, a state, `xs`
[T, B, D] and `resets` [T, B], and gives `ys` and the last state; everything is float64 or complex128. It may also have

    VARIANTS  hyperparameters to test besides the defaults, in slow tests
    BEFORE    name of the core in the layer before, where the core needs one; the two are then tested as a stack without
              norms and residuals, whose parameters and state the reference takes
    SAME_AS   name of the core whose code it runs, with other hyperparameters or beside attention: of this one only the
              equations are tested in CI, and the rest of the contract is a slow test
    PERIOD    steps after which the core's function repeats, where it depends on the position in the sequence (chunks)
"""

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from memrl import CoreConfig, core_config
from memrl.cores import core_name

Reference = Callable[[Any, Any, Any, np.ndarray, np.ndarray], tuple[np.ndarray, Any]]
FOLDER = Path(__file__).parent / "references"
ONE_OF_A_KIND = ("gru", "s5", "gtrxl", "mamba2", "gated_deltanet", "titans")
"""Cores that stand for all ways to compute, for what would take minutes with every core."""


class CoreReference(NamedTuple):
    """What the tests know of a core."""

    reference: Reference
    variants: tuple[dict[str, Any], ...]  # the defaults, {}, first
    period: int
    before: str | None
    same_as: str | None


def reference_of(name: str) -> CoreReference:
    """The reference of the core called `name`."""
    path = FOLDER / f"{name}.py"
    assert path.is_file(), f"write the equations of core {name!r} in {path.relative_to(FOLDER.parents[2])}"
    module = importlib.import_module(f"cores.references.{name}")
    return CoreReference(
        module.reference,
        ({}, *getattr(module, "VARIANTS", ())),
        getattr(module, "PERIOD", 1),
        getattr(module, "BEFORE", None),
        getattr(module, "SAME_AS", None),
    )


def with_its_source(config: CoreConfig) -> tuple[CoreConfig, ...]:
    """The core, after the one that it needs before it, if any."""
    before = reference_of(core_name(config)).before
    return (config,) if before is None else (core_config(before), config)
