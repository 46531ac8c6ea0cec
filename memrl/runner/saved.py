"""Runs on disk: what they were, and what they learned."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from memrl.errors import MemrlError, check
from memrl.experiment import Assembly, Experiment, assemble, experiment_from_json, experiment_to_json
from memrl.runner.checkpoints import Checkpoints
from memrl.runner.folder import RunFolder
from memrl.runner.program import initial_states


class SavedRun(NamedTuple):
    """A run's experiment and its last whole checkpoint."""

    experiment: Experiment
    assembly: Assembly
    update: int  # updates done
    states: Any  # train states, leaves [S, ...]


def load_saved(path: Path) -> SavedRun:
    """Reads a run folder.

    Raises:
        MemrlError: if the folder holds no run, or no whole checkpoint.
    """
    folder = RunFolder(path)
    check(folder.config_json.is_file(), f"run {path}: no config.json there, expected the folder of a run")
    try:
        experiment = experiment_from_json(json.loads(folder.config_json.read_text()))
    except json.JSONDecodeError as error:
        raise MemrlError(f"run {path}: config.json is damaged: {error}") from error
    assembly = assemble(experiment)
    restored = Checkpoints(folder.checkpoints).restore(initial_states(assembly.agent, experiment))
    return SavedRun(experiment, assembly, restored.update, restored.state)


def check_same_experiment(experiment: Experiment, folder: RunFolder) -> None:
    """Raises `MemrlError` if the folder belongs to another experiment; a longer run is the same one, continued."""
    old = json.loads(folder.config_json.read_text())
    new = json.loads(json.dumps(experiment_to_json(experiment)))
    for field in new:
        same = new[field] >= old[field] if field == "total_steps" else new[field] == old.get(field)
        check(same, f"run folder {folder.path} has {field} = {old.get(field)}, which {new[field]} cannot resume")
