"""The runner: everything with an effect. It drives an agent, and keeps, shows and evaluates what comes of it."""

from memrl.runner.saved import SavedRun, load_saved
from memrl.runner.signals import Interrupted
from memrl.runner.train import RunOptions, run

__all__ = ["Interrupted", "RunOptions", "SavedRun", "load_saved", "run"]
