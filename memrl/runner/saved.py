"""Runs on disk: what they were, and what they learned."""

import dataclasses
import json
from collections.abc import Mapping
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
    experiment = load_experiment(path)
    assembly = assemble(experiment)
    restored = Checkpoints(RunFolder(path).checkpoints).restore(initial_states(assembly.agent, experiment))
    return SavedRun(experiment, assembly, restored.update, restored.state)


def load_experiment(path: Path) -> Experiment:
    """What a run folder is a run of.

    Raises:
        MemrlError: if the folder holds no run.
    """
    folder = RunFolder(path)
    check(folder.config_json.is_file(), f"run {path}: no config.json there, expected the folder of a run")
    try:
        return experiment_from_json(json.loads(folder.config_json.read_text()))
    except json.JSONDecodeError as error:
        raise MemrlError(f"run {path}: config.json is damaged: {error}") from error


def elsewhere(saved: SavedRun, env_options: Mapping[str, Any]) -> SavedRun:
    """The saved agents in their environment with other options.

    Raises:
        MemrlError: if it then shows something else, or takes other actions, than they have learned.
    """
    experiment = dataclasses.replace(saved.experiment, env_options={**saved.experiment.env_options, **env_options})
    assembly = assemble(experiment)
    for name in ("observation_space", "action_space"):
        old, new = (getattr(a.env, name)(a.env_params) for a in (saved.assembly, assembly))
        check(
            repr(old) == repr(new),
            f"{name.replace('_', ' ')} of {experiment.env} with {dict(env_options)} is {new!r}, expected {old!r}, as "
            "learned",
        )
    return SavedRun(experiment, assembly, saved.update, saved.states)


def check_same_experiment(experiment: Experiment, folder: RunFolder) -> None:
    """Raises `MemrlError` if the folder belongs to another experiment; a longer run is the same one, continued."""
    old = json.loads(folder.config_json.read_text())
    new = json.loads(json.dumps(experiment_to_json(experiment)))
    for field in new:
        same = new[field] >= old[field] if field == "total_steps" else new[field] == old.get(field)
        check(same, f"run folder {folder.path} has {field} = {old.get(field)}, which {new[field]} cannot resume")
