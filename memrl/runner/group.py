"""Runs that one program trains: the same but for numbers, side by side along the seed axis."""

import copy
import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from memrl.agents import Agent, AgentConfig
from memrl.envs.wrappers import unwrapped
from memrl.errors import check
from memrl.experiment import Assembly, Experiment, assemble, experiment_to_json
from memrl.runner.layout import ONE_DEVICE, Layout, layout_of
from memrl.runner.program import initial_states
from memrl.types import Array


def shape_of(experiment: Experiment) -> str:
    """What decides an experiment's program; experiments that share it may be a `Group`."""
    data = experiment_to_json(experiment)
    for name in experiment.agent.numbers:
        if data["agent"][name] is not None:  # without a number the program is another
            data["agent"][name] = "a number"
    return json.dumps(data, sort_keys=True)


class Varied(NamedTuple):
    """A train state with the numbers that it is trained by."""

    numbers: dict[str, Array]  # scalars
    state: Any


@dataclasses.dataclass(frozen=True)
class Group:
    """One or more experiments of one shape; the seeds of the first come first.

    Of a single experiment the states are the agent's own. Of several they are `Varied`, so that each seed's update
    takes the numbers of its experiment.
    """

    experiments: tuple[Experiment, ...]
    mesh: str | None = None  # see `memrl.runner.layout`

    def __post_init__(self) -> None:
        """Raises `MemrlError` for experiments that one program cannot train."""
        shapes = {shape_of(experiment) for experiment in self.experiments}
        check(len(shapes) == 1, f"group: {len(shapes)} shapes of experiments, expected experiments of one shape")

    @property
    def first(self) -> Experiment:
        """The experiment that stands for all of them, where their numbers do not matter."""
        return self.experiments[0]

    @property
    def seeds(self) -> int:
        """Seeds of all experiments."""
        return len(self.experiments) * self.first.seeds

    @functools.cached_property
    def assembly(self) -> Assembly:
        """The first experiment's environment and agent.

        Raises:
            MemrlError: for anything in the experiment that cannot be made.
        """
        return assemble(self.first)

    @functools.cached_property
    def layout(self) -> Layout:
        """Where the group lies.

        Raises:
            MemrlError: for a mesh that does not fit.
        """
        on_host = getattr(unwrapped(self.assembly.env), "on_host", False)
        return layout_of(self.first, self.mesh, len(self.experiments), on_host=on_host)

    @property
    def update(self) -> Callable[[Any], tuple[Any, dict[str, Array]]]:
        """An agent's update, for one of the group's states."""
        agent = self.assembly.agent
        return agent.update if len(self.experiments) == 1 else functools.partial(_varied_update, agent)

    def first_states(self) -> Any:
        """An experiment's train states before the first update, [S, ...]: they depend on no number.

        Of several experiments, they are on one device, until they are joined.
        """
        return initial_states(
            self.assembly.agent, self.first, self.layout if len(self.experiments) == 1 else ONE_DEVICE
        )

    def join(self, states: Sequence[Any]) -> Any:
        """The group's states of those of its experiments."""
        if len(states) == 1:
            return states[0]
        joined = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *states)
        numbers = {name: jnp.repeat(values, self.first.seeds) for name, values in self._numbers().items()}
        marks = Varied(jax.tree.map(lambda _: False, numbers), self.assembly.agent.has_environments(joined))
        return self.layout.place(Varied(numbers, joined), marks)

    def place(self, states: Any) -> Any:
        """The train states of one experiment, which are on one device, where they belong."""
        return self.layout.place(states, self.assembly.agent.has_environments(states))

    def part(self, states: Any, index: int) -> Any:
        """The train states of one experiment."""
        if len(self.experiments) == 1:
            return states
        return jax.tree.map(lambda x: x[self._columns(index)], states.state)

    def metrics_of(self, metrics: dict[str, np.ndarray], index: int) -> dict[str, np.ndarray]:
        """The metrics [n, S] of one experiment, of all of them."""
        return {name: values[:, self._columns(index)] for name, values in metrics.items()}

    def _columns(self, index: int) -> slice:
        return slice(index * self.first.seeds, (index + 1) * self.first.seeds)

    def _numbers(self) -> dict[str, Array]:
        """Those that differ, one per experiment."""
        agents = [experiment.agent for experiment in self.experiments]
        values = {name: [getattr(agent, name) for agent in agents] for name in agents[0].numbers}
        return {name: jnp.array(of, jnp.float32) for name, of in values.items() if len(set(of)) > 1}


def _varied_update(agent: Any, varied: Varied) -> tuple[Varied, dict[str, Array]]:
    varied_agent: Agent = dataclasses.replace(agent, config=_with_numbers(agent.config, varied.numbers))
    state, metrics = varied_agent.update(varied.state)
    return Varied(varied.numbers, state), metrics


def _with_numbers(config: AgentConfig, numbers: dict[str, Array]) -> AgentConfig:
    """The configuration with tracers in the place of numbers, which cannot be checked, and have been."""
    config = copy.copy(config)
    for name, value in numbers.items():
        object.__setattr__(config, name, value)
    return config
