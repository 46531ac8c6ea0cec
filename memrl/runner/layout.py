"""How a run lies on devices: environments are split along one axis of a mesh, seeds along the other.

Parameters and optimisers are on all devices of their seed. What is computed does not depend on the layout, but for
rounding.
"""

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from memrl.agents.devices import DATA, SEED
from memrl.errors import check
from memrl.experiment import Experiment
from memrl.types import PyTree


@dataclasses.dataclass(frozen=True)
class Layout:
    """The mesh of a run, [data, seed]; without one, the run is on the default device."""

    mesh: Mesh | None = None

    def __str__(self) -> str:
        devices = f"{math.prod(self.sizes)} {jax.default_backend()} device"
        if self.mesh is None:
            return devices
        hosts = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
        return f"{devices}s{hosts}, data={self.sizes[0]}, seed={self.sizes[1]}"

    @property
    def sizes(self) -> tuple[int, int]:
        """Devices along data and along seed."""
        return (1, 1) if self.mesh is None else (self.mesh.shape[DATA], self.mesh.shape[SEED])

    def over_seeds(self, function: Callable[..., Any], seeds: int) -> Callable[..., Any]:
        """`function` over a leading seed axis S; for a single seed without the cost of batched matrix products."""
        if seeds > 1:
            return jax.vmap(function, spmd_axis_name=None if self.mesh is None else SEED)

        def one_seed(argument: Any) -> Any:
            result = function(jax.tree.map(lambda x: x[0], argument))
            return jax.tree.map(lambda x: x[None], result)

        return one_seed

    def shardings(self, has_environments: PyTree) -> PyTree:
        """Where leaves [S, ...] are; those that are marked are [S, B, ...]. None without a mesh."""
        if self.mesh is None:
            return None
        of_seed, of_environment = (self._sharding(*axes) for axes in ((SEED,), (SEED, DATA)))
        return jax.tree.map(lambda marked: of_environment if marked else of_seed, has_environments)

    def place(self, states: PyTree, has_environments: PyTree) -> PyTree:
        """The states, which are on one device, where `shardings` says; of several processes all have the same."""
        if self.mesh is None:
            return states
        shardings = self.shardings(has_environments)
        if jax.process_count() == 1:
            return jax.device_put(states, shardings)
        return jax.jit(_same, out_shardings=shardings)(states)  # device_put reaches no other process's devices

    @property
    def everywhere(self) -> Any:
        """Where each device has all; None without a mesh."""
        return self._sharding()

    def gather(self, states: PyTree) -> PyTree:
        """All of the states on one device, of this process where there are several."""
        if self.mesh is None:
            return states
        copies = jax.jit(_same, out_shardings=self.everywhere)(states)
        return jax.tree.map(lambda x: x.addressable_data(0), copies)

    def active(self) -> contextlib.AbstractContextManager[Any]:
        """Within it, programs that are traced know the mesh."""
        return contextlib.nullcontext() if self.mesh is None else jax.set_mesh(self.mesh)

    def _sharding(self, *axes: str) -> NamedSharding | None:
        return None if self.mesh is None else NamedSharding(self.mesh, PartitionSpec(*axes))


def _same(states: PyTree) -> PyTree:  # one function, so that it is compiled once
    return states


ONE_DEVICE = Layout()


def layout_of(experiment: Experiment, mesh: str | None, experiments: int = 1, *, on_host: bool = False) -> Layout:
    """The layout that is asked for, or one over as many devices as can be used.

    Args:
        experiment: what is to be trained.
        mesh: the sizes of its axes, "data=4,seed=2"; an axis that is not named has size 1.
        experiments: how many of the same shape are trained side by side.
        on_host: the environment lives on the host, beside one device.

    Raises:
        MemrlError: for a mesh that is not one, does not fit the devices or does not divide the experiment.
    """
    devices = jax.devices()
    seeds, parts = experiments * experiment.seeds, experiment.agent.parts
    check(
        not on_host or jax.process_count() == 1,
        f"distributed with {experiment.env}, which runs on the host, expected an environment written in JAX",
    )
    if mesh is None and on_host:
        return ONE_DEVICE
    if mesh is None:
        data, seed = _largest(len(devices), parts, seeds)
        check(
            jax.process_count() == 1 or data * seed == len(devices),
            f"distributed over {len(devices)} devices: {seeds} seeds and {parts} parts of environments can use "
            f"{data * seed} of them, expected all",
        )
        return ONE_DEVICE if data * seed == 1 else _over(devices[: data * seed], data, seed)
    sizes = _parse(mesh)
    data, seed = sizes.get(DATA, 1), sizes.get(SEED, 1)
    check(
        data * seed == len(devices),
        f"mesh is {mesh!r}, {data * seed} devices, expected as many as there are: {len(devices)}",
    )
    check(
        not on_host or data * seed == 1,
        f"mesh is {mesh!r} with {experiment.env}, which runs on the host, expected data=1,seed=1",
    )
    check(
        parts % data == 0,
        f"mesh is {mesh!r}: the environments of a minibatch cannot be split into {data} parts, expected a divisor of "
        f"{parts}",
    )
    check(seeds % seed == 0, f"mesh is {mesh!r}: {seeds} seeds, expected a multiple of {seed}")
    return ONE_DEVICE if data * seed == 1 else _over(devices, data, seed)


def _over(devices: Sequence[Any], data: int, seed: int) -> Layout:
    return Layout(jax.make_mesh((data, seed), (DATA, SEED), axis_types=(AxisType.Auto,) * 2, devices=devices))


def _largest(devices: int, parts: int, seeds: int) -> tuple[int, int]:
    """The sizes (data, seed) that use most devices; of those that use as many, most for seeds: they need no talk."""
    divisors = [[n for n in range(1, devices + 1) if of % n == 0] for of in (parts, seeds)]
    fitting = [(data, seed) for data, seed in itertools.product(*divisors) if data * seed <= devices]
    return max(fitting, key=lambda sizes: (sizes[0] * sizes[1], sizes[1]))


def _parse(mesh: str) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for part in mesh.split(","):
        name, _, size = part.partition("=")
        fits = name in (DATA, SEED) and name not in sizes and size.isdecimal() and int(size) > 0
        check(fits, f"mesh is {mesh!r}, expected sizes of its axes, such as data=4,seed=2")
        sizes[name] = int(size)
    return sizes
