"""What an agent is."""

import dataclasses
from typing import Any, ClassVar, Literal, Protocol

from memrl.config import Config
from memrl.networks import ActorCritic
from memrl.types import Array, Key, Observation, PyTree, Trajectory


@dataclasses.dataclass(frozen=True)
class AgentConfig(Config):
    """Hyperparameters of an agent: each algorithm's file holds its own subclass."""

    owner: ClassVar[str] = "agent"

    needs_values: ClassVar[bool] = True
    """Whether the network is to have a critic."""
    numbers: ClassVar[tuple[str, ...]] = ()
    """Fields that agents trained in one program may have different values of: only `update` reads them, and may be
    given arrays in their place. Where one is None, it is None for all."""

    num_envs: int = 64
    """Number B of environments that run side by side."""
    num_steps: int = 128
    """Steps T that each environment takes between two updates."""

    @property
    def shared(self) -> Literal["nothing", "starts", "chance"]:
        """What environments have in common that are reset with the same key: the starts of all their episodes; or with
        `chance` also what the environment draws in its steps."""
        return "nothing"

    @property
    def parts(self) -> int:
        """The environments may be split over any number of devices that divides this, and each has what it needs."""
        return 1

    @property
    def steps_per_update(self) -> int:
        """Environment steps of one update, B * T."""
        return self.num_envs * self.num_steps


class Agent(Protocol):
    """Two pure functions, `init` and `update`, that can be jitted, scanned, vmapped and sharded.

    Made from an environment, its parameters, a function that makes the network, a configuration and the number of
    updates of the run. The other two functions say how a trained state acts.
    """

    def init(self, key: Key) -> PyTree:
        """The train state before the first update."""
        ...

    def update(self, state: Any) -> tuple[Any, dict[str, Array]]:
        """The train state after one more update, and the update's metrics, scalars all of them."""
        ...

    def has_environments(self, state: Any) -> Any:
        """For each leaf of a train state whether its first axis is that of the environments."""
        ...

    def collect(self, state: Any, key: Key) -> tuple[Any, Trajectory, Any]:
        """Where the environments stand after T more steps, the trajectory, and the episodes that ended."""
        ...

    def network(self, state: Any) -> ActorCritic:
        """The network with the state's parameters."""
        ...

    def see(self, state: Any, observation: Observation) -> Observation:
        """What the network sees of an observation [..., *shape]: its normalisation, if any."""
        ...
