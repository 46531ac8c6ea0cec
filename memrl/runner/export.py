"""A trained policy as a folder of its own, for `memrl.load_policy`: programs, weights, and what they are."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

from memrl.errors import MemrlError, check
from memrl.kernels.backends import portable
from memrl.policy import FORMAT, INITIAL_STATE, POLICY_JSON, STEP, WEIGHTS, Inputs, PolicyFacts, file_digest
from memrl.runner.acting import Acting, acting_of, facts_of, one_observation
from memrl.runner.saved import SavedRun, load_saved
from memrl.types import Array

PLATFORMS = ("cpu", "cuda", "tpu")


def export_run(run: Path, out: Path | None, seed: int = 0, *, greedy: bool = True, overwrite: bool = False) -> Path:
    """Writes the policy of a run's last checkpoint to a folder, and returns where.

    Args:
        run: the run folder.
        out: the new folder, or None for `policy` in the run folder.
        seed: which of the run's seeds, from 0.
        greedy: take the most probable action; drawn otherwise.
        overwrite: replace the policy where there is one.

    Raises:
        MemrlError: if there is no such run, checkpoint or seed, or the folder cannot be written.
    """
    out = run / "policy" if out is None else out
    if run.is_dir():  # else there is more to say than where the policy does not go
        _check_output(out, overwrite)
    export_policy(load_saved(run), out, seed, greedy=greedy)
    return out


def _check_output(out: Path, overwrite: bool) -> None:
    """Raises `MemrlError` unless a folder can be made or replaced, before time is spent on it."""
    if out.exists() or out.is_symlink():
        check(overwrite, f"export: out {out} exists, expected a new folder, or --overwrite")
        policy = out.is_dir() and ((out / POLICY_JSON).is_file() or not any(out.iterdir()))
        check(policy, f"export: out {out} holds something else than a policy, which --overwrite does not replace")
    parent = out.absolute().parent
    check(parent.is_dir(), f"export: out is {out}, but {parent} is not a folder, expected one that exists")
    check(os.access(parent, os.W_OK), f"export: out is {out}, but folder {parent} cannot be written to")


def export_policy(saved: SavedRun, out: Path, seed: int = 0, *, greedy: bool = True) -> None:
    """Writes the policy of one seed to the folder `out`, which appears when it is whole; what was there is replaced.

    Raises:
        MemrlError: if the run has no such seed, or the folder cannot be written.
    """
    acting = acting_of(saved, seed, greedy)
    weights = _named(acting.weights)
    step, initial_state = exported(acting, saved, greedy)
    from safetensors.numpy import save

    files = {
        WEIGHTS: save({name: np.asarray(x) for name, x in weights.items()}),
        STEP: bytes(step.serialize()),
        INITIAL_STATE: bytes(initial_state.serialize()),
    }
    _write_folder(out, files | {POLICY_JSON: _description(facts_of(saved, seed, greedy), files)})


def exported(acting: Acting, saved: SavedRun, greedy: bool) -> tuple[export.Exported, export.Exported]:
    """The programs of a step and of the initial state, for batches of any size; weights are arguments of both."""
    structure = jax.tree.structure(acting.weights)
    names = list(_named(acting.weights))

    def unflatten(weights: dict[str, Array]) -> Any:
        return structure.unflatten([weights[name] for name in names])

    (size,) = export.symbolic_shape("b")
    weights = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in _named(acting.weights).items()}
    with portable():
        state = jax.eval_shape(lambda w: acting.start(unflatten(w), size), weights)
    state_structure = jax.tree.structure(state)

    def step(weights: dict[str, Array], state: list[Array], inputs: Inputs) -> tuple[list[Array], Array]:
        next_state, action = acting.act(unflatten(weights), state_structure.unflatten(state), inputs)
        return jax.tree.leaves(next_state), action

    def initial_state(weights: dict[str, Array], rows: Array) -> list[Array]:
        return jax.tree.leaves(acting.start(unflatten(weights), rows.shape[0]))

    rows = jax.ShapeDtypeStruct((size,), bool)
    with portable():
        return (
            export.export(jax.jit(step), platforms=PLATFORMS)(
                weights, jax.tree.leaves(state), _inputs(saved, size, greedy)
            ),
            export.export(jax.jit(initial_state), platforms=PLATFORMS)(weights, rows),
        )


def _inputs(saved: SavedRun, size: Any, greedy: bool) -> Inputs:
    """Shapes and dtypes of what `Policy.step` gives on."""
    observation = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((size, *x.shape), x.dtype), one_observation(saved.assembly)
    )
    inputs: Inputs = {"observation": observation, "reset": jax.ShapeDtypeStruct((size,), bool)}
    if saved.experiment.network.previous_reward:
        inputs["reward"] = jax.ShapeDtypeStruct((size,), np.float32)
    if not greedy:
        inputs["key"] = jax.ShapeDtypeStruct((2,), np.uint32)
    return inputs


def _named(weights: Any) -> dict[str, Array]:
    """The leaves by name, in the order of the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(weights)
    names = [jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value") for path, _ in leaves]
    assert len(set(names)) == len(names)
    return {name: leaf for name, (_, leaf) in zip(names, leaves, strict=True)}


def _description(facts: PolicyFacts, files: dict[str, bytes]) -> bytes:
    digests = {name: file_digest(content) for name, content in files.items()}
    content = {"format": FORMAT, "platforms": PLATFORMS, "facts": vars(facts), "files": digests}
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()


def _write_folder(out: Path, files: dict[str, bytes]) -> None:
    """A folder with these files, under its name only when all are on disk."""
    temporary, old = (out.with_name(f".{out.name}.{word}{os.getpid()}") for word in ("new", "old"))
    try:
        temporary.mkdir()
        for name, content in files.items():
            with (temporary / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        _take_name(temporary, out, old)
    except OSError as error:
        raise MemrlError(f"export: out {out} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _take_name(new: Path, out: Path, old: Path) -> None:
    """Gives `new` the name `out`, and what had that name the name `old`; or changes nothing."""
    there = out.exists()
    if there:
        out.rename(old)
    try:
        new.rename(out)
    except OSError:
        if there:
            old.rename(out)
        raise
