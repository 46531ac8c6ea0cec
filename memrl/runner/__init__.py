"""The runner: everything with an effect. It drives an agent, and keeps, shows and evaluates what comes of it."""

from memrl.runner.train import Interrupted, RunOptions, load_states, run

__all__ = ["Interrupted", "RunOptions", "load_states", "run"]
