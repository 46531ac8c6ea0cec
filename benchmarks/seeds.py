"""What ten seeds in one program cost, beside one.

    python benchmarks/seeds.py                  # the quickstart's task at width 64
    python benchmarks/seeds.py --cores gru s5 --features 128 --turns 9

One program trains a single seed, another trains all of them by `vmap`; they take turns, an update each. Printed are the
medians of the seconds that passed and of those that the processors worked, which others on the machine disturb less.
Beside them stands what the machine gives without a library: products of the size that a step of a GRU has, for one seed
and for all side by side. Where those cost so many times one, training must too.

On 2 cores of an AMD EPYC, busy with other work, ten seeds of the GRU took 11.0 times the processor's time of one (3
turns), and with 8 environments instead of 64 8.4 times (5 turns). The likely reason: each seed has weights of its own,
so ten seeds are ten matrix products and not one that is larger, and an update is one compiled program without calls
from Python, so that there is little else to share. What is done once is the compiling.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import tyro
from jax import lax
from rich.console import Console
from rich.table import Table

from memrl import Experiment, NetworkConfig, PPOConfig, core_config
from memrl.experiment import assemble
from memrl.runner.program import compile_chunk, initial_states


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    cores: tuple[str, ...] = ("gru", "s5")
    """Names of cores."""
    seeds: int = 10
    """Seeds of the program with several."""
    features: int = 64
    """Width of the network."""
    num_envs: int = 64
    """Environments of each seed."""
    num_steps: int = 64
    """Steps of an update."""
    turns: int = 5
    """Times that each is measured."""


def main(options: Options) -> None:
    """Measures and prints the table."""
    table = Table("core", "seeds", "compile s", "s per update", "times one seed", "processor s", "times one seed")
    for core in options.cores:
        programs = {seeds: Program(core, seeds, options) for seeds in (1, options.seeds)}
        measured = {seeds: [] for seeds in programs}
        for _ in range(options.turns):
            for seeds, program in programs.items():
                measured[seeds].append(program.turn())
        medians = {
            seeds: [statistics.median(of) for of in zip(*turns, strict=True)] for seeds, turns in measured.items()
        }
        for seeds, (wall, processor) in medians.items():
            alone = medians[1]
            table.add_row(
                *(core, str(seeds), f"{programs[seeds].compile_seconds:.1f}"),
                *(f"{wall:.3f}", f"{wall / alone[0]:.2f}", f"{processor:.3f}", f"{processor / alone[1]:.2f}"),
            )
    Console(width=100).print(table)
    one, side_by_side = product_seconds(1, options), product_seconds(options.seeds, options)
    print(
        f"[{options.num_envs}, {options.features}] x [{options.features}, {3 * options.features}]: {1e6 * one:.1f} us, "
        f"{options.seeds} side by side {1e6 * side_by_side:.1f} us, {side_by_side / one:.1f} times one"
    )


def product_seconds(seeds: int, options: Options) -> float:
    """Processor seconds of a GRU step's product with the recurrent matrix, for all seeds; each follows the last."""
    repeats = 2000
    leading = () if seeds == 1 else (seeds,)
    matrix = jax.random.normal(jax.random.key(0), (*leading, options.features, 3 * options.features)) / options.features

    @jax.jit
    def run(h: jax.Array) -> jax.Array:
        return lax.fori_loop(0, repeats, lambda _, h: jnp.tanh(h @ matrix)[..., : options.features], h)

    h = jnp.ones((*leading, options.num_envs, options.features))
    run(h).block_until_ready()
    seconds = []
    for _ in range(options.turns):
        started = time.process_time()
        run(h).block_until_ready()
        seconds.append(time.process_time() - started)
    return statistics.median(seconds) / repeats


class Program:
    """PPO with some seeds."""

    def __init__(self, core: str, seeds: int, options: Options):
        experiment = Experiment(
            env="popgym/RepeatPreviousEasy",
            core=core_config(core),
            network=NetworkConfig(features=options.features, encoder_sizes=(), head_sizes=(64,)),
            agent=PPOConfig(num_envs=options.num_envs, num_steps=options.num_steps, minibatches=4, learning_rate=1e-3),
            seeds=seeds,
        )
        agent = assemble(experiment).agent
        started = time.perf_counter()
        self.states = initial_states(agent, experiment)
        self.run: Callable = compile_chunk(agent.update, seeds, self.states)
        self.compile_seconds = time.perf_counter() - started
        self.turn()

    def turn(self) -> tuple[float, float]:
        """Seconds of an update: as they pass, and of the processors."""
        wall, processor = time.perf_counter(), time.process_time()
        self.states, _ = self.run(self.states, 1)
        jax.block_until_ready(self.states)
        return time.perf_counter() - wall, time.process_time() - processor


if __name__ == "__main__":
    main(tyro.cli(Options))
