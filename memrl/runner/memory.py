"""What a run holds in memory: worked out before it starts, and measured when it is over."""

import ctypes
import gc
import resource
import sys
from typing import Any, NamedTuple

import jax

from memrl.agents import Agent
from memrl.cores.facts import count, size_in_bytes


class Sizes(NamedTuple):
    """Sizes of a run's parts."""

    parameters: int  # how many numbers
    memory: int  # bytes of one environment's recurrent state
    train_state: int  # bytes, per seed
    rollout: int  # bytes, per seed


def sizes_of(agent: Agent, states: Any) -> Sizes:
    """From shapes alone; the train states have leaves [S, ...]."""
    one = jax.eval_shape(lambda s: jax.tree.map(lambda x: x[0], s), states)
    memory = jax.eval_shape(lambda s: agent.network(s).initial_state(1), one)
    trajectory = jax.eval_shape(lambda s, k: agent.collect(s, k)[1], one, jax.random.key(0))
    return Sizes(count(one.params), *map(size_in_bytes, (memory, one, trajectory)))


def describe_sizes(sizes: Sizes, num_envs: int) -> list[str]:
    """What a run says before it starts."""
    return [
        f"{sizes.parameters:,} parameters; memory {size_text(sizes.memory)} and rollout "
        f"{size_text(sizes.rollout / num_envs)} per environment",
        f"train state {size_text(sizes.train_state)} and rollouts {size_text(sizes.rollout)} per seed",
    ]


def size_text(size: float) -> str:
    """Bytes as 512 B, 12.3 KiB, 1.5 GiB."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} GiB"


def peak_memory() -> int:
    """The most that this process has held so far, in bytes."""
    # ru_maxrss is in KiB, except on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def release_memory() -> None:
    """Gives back what tracing and compiling left: glibc keeps 150 to 300 MB of it after each large program."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
