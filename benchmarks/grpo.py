"""GRPO's update against PPO's at equal sizes, and with a shared prefix against without.

    python benchmarks/grpo.py
    python benchmarks/grpo.py --cores gru s5 gtrxl

The task is RepeatPreviousHard, whose cards do not depend on what is done, so that a group sees the same as long as it
likes: 64 environments, 128 steps, 4 epochs and 4 minibatches of whole sequences; groups of 16, and a prefix of 96
steps. The network is an encoder 128-128, a core of width 128, and heads 128. All arms are compiled first, and then take
turns, one update each: what is compared is the ratio turn by turn.
"""

import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro
from rich.console import Console
from rich.table import Table

from memrl import Experiment, GRPOConfig, NetworkConfig, PPOConfig, assemble, core_config
from memrl.agents import AgentConfig

SIZES: dict[str, Any] = {"num_envs": 64, "num_steps": 128, "epochs": 4, "minibatches": 4}
AGENTS: dict[str, AgentConfig] = {
    "ppo": PPOConfig(**SIZES),
    "grpo": GRPOConfig(**SIZES, group_size=16, unfinished="count"),
    "grpo, prefix 96": GRPOConfig(**SIZES, group_size=16, unfinished="count", prefix=96),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    cores: tuple[str, ...] = ("gru", "s5", "gtrxl", "mamba2", "gated_deltanet")
    """Names of the memory cores."""
    turns: int = 15
    """Updates of each that are timed."""
    out: Annotated[Path | None, tyro.conf.arg(help="Also write the numbers to this JSON file.")] = None


def main(options: Options) -> None:
    """Measures, prints the table, and writes the numbers."""
    results = [result for core in options.cores for result in measure(core, options.turns)]
    rows = Table("core", "part", "ppo", "grpo", "grpo, prefix 96", "ppo / grpo", "without / with prefix")
    for r in results:
        times = (f"{1e3 * r['seconds'][name]:.0f} ms" for name in AGENTS)
        rows.add_row(r["core"], r["part"], *times, f"{r['against_ppo']:.2f}", f"{r['prefix_gain']:.2f}")
    Console(width=110).print(rows)
    if options.out:
        options.out.write_text(json.dumps(results, indent=2) + "\n")


def measure(core: str, turns: int) -> list[dict[str, Any]]:
    """Medians for rollouts alone and for whole updates; what is left of an update is learning."""
    arms = {name: make_arms(core, agent) for name, agent in AGENTS.items()}
    seconds = {part: {name: [] for name in AGENTS} for part in ("rollout", "update")}
    for _ in range(turns):
        for name, parts in arms.items():
            for part, run in parts.items():
                started = time.perf_counter()
                run()
                seconds[part][name].append(time.perf_counter() - started)
    seconds["learning"] = {
        name: [u - r for u, r in zip(seconds["update"][name], seconds["rollout"][name], strict=True)] for name in AGENTS
    }
    return [
        {
            "core": core,
            "part": part,
            "seconds": {name: statistics.median(times) for name, times in of_part.items()},
            "against_ppo": ratio(of_part["ppo"], of_part["grpo"]),
            "prefix_gain": ratio(of_part["grpo"], of_part["grpo, prefix 96"]),
        }
        for part, of_part in seconds.items()
    ]


def make_arms(core: str, config: AgentConfig) -> dict[str, Callable[[], Any]]:
    """A rollout and an update, compiled and run once."""
    experiment = Experiment(
        env="popgym/RepeatPreviousHard", core=core_config(core), network=NetworkConfig(), agent=config
    )
    agent = assemble(experiment).agent
    state = jax.jit(agent.init)(jax.random.key(0))
    key = jax.random.key(1)
    rollout, update = jax.jit(lambda state, key: agent.collect(state, key)), jax.jit(agent.update)
    arms = {
        "rollout": lambda: jax.block_until_ready(rollout(state, key)),
        "update": lambda: jax.block_until_ready(update(state)),
    }
    for run in arms.values():
        run()
    return arms


def ratio(slow: list[float], fast: list[float]) -> float:
    """The median over turns."""
    return statistics.median(s / f for s, f in zip(slow, fast, strict=True))


if __name__ == "__main__":
    main(tyro.cli(Options))
