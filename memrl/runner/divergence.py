"""Runs that have diverged: which update it was, and why where that was measured."""

import numpy as np

from memrl.agents.grpo import PREFIX_ALIKE
from memrl.cores import CORES, core_name
from memrl.cores.neural_memory import INNER_LOSS
from memrl.errors import MemrlError
from memrl.experiment import Experiment
from memrl.runner.folder import RunFolder


def check_finite(metrics: dict[str, np.ndarray], first_update: int, experiment: Experiment, folder: RunFolder) -> None:
    """Raises `MemrlError` that names the first update with a loss or gradient that is NaN or infinite, and the reason
    where it was measured."""
    bad = metrics["nonfinite_steps"] > 0  # [n, S]
    if not bad.any():
        return
    index = int(np.argmax(bad.any(axis=1)))
    seeds = np.flatnonzero(bad[index])
    what, look_at = _reason({name: values[index, seeds] for name, values in metrics.items()}, experiment)
    raise MemrlError(
        f"update {first_update + index}: {what} (seeds {seeds.tolist()}); the checkpoints in {folder.checkpoints} are "
        f"from before; look at {look_at}"
    )


def _reason(metrics: dict[str, np.ndarray], experiment: Experiment) -> tuple[str, str]:
    """What went wrong in an update, by its metrics [S], and where to look."""
    if not np.isfinite(metrics.get(INNER_LOSS, 0)).all():
        cores = [core_name(core) for core in experiment.cores]
        learning = " and ".join(dict.fromkeys(name for name in cores if INNER_LOSS in CORES[name].core.metrics))
        return (
            f"the inner loop of core {learning} has diverged, {INNER_LOSS} is not finite",
            "the core's max_learning_rate and max_gradient_norm, learning_rate, and the environment's observations",
        )
    if np.min(metrics.get(PREFIX_ALIKE, 1)) < 1:
        return (
            "the environments of a group have not seen the same in the first steps of the rollout",
            "the agent's prefix and shared_chance",
        )
    return (
        "loss or gradient is not finite",
        "learning_rate, max_gradient_norm, and the environment's rewards and observations",
    )
