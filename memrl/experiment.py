"""The typed description of a run, and its assembly: environment + network + agent."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, NamedTuple

import jax
import tyro
from flax import nnx

from memrl.agents import AGENTS, Agent, AgentConfig, PPOConfig, agent_name
from memrl.config import Config, from_json
from memrl.cores import CORES, CoreConfig, GRUConfig, core_config, core_name
from memrl.envs import make_env
from memrl.envs.meta.projection import RandomProjection
from memrl.envs.meta.trials import Trials
from memrl.envs.shared_starts import SharedStarts
from memrl.envs.wrappers import PreviousStep
from memrl.errors import check
from memrl.networks import ActorCritic, NetworkConfig
from memrl.registry import Registry
from memrl.types import Array, Key

EnvOption = bool | int | float | str


@dataclasses.dataclass(frozen=True)
class Experiment(Config):
    """A run, described completely: the same experiment and seed give the same parameters, bit for bit."""

    owner: ClassVar[str] = "experiment"

    env: str
    """Name of the environment; see `memrl list envs`."""
    env_options: Annotated[Mapping[str, EnvOption], tyro.conf.Suppress] = dataclasses.field(default_factory=dict)
    """Options of the environment that differ from its defaults."""
    projection: int | None = None
    """Numbers that observations are projected to, by a matrix of each episode's own; not projected when not given."""
    permute_actions: bool = False
    """Whether the actions of a projected environment also change places with each episode."""
    trials: int = 1
    """Attempts at the same task that make up an episode; the observation then says where one starts."""
    core: CoreConfig | tuple[CoreConfig, ...] = GRUConfig()
    """The memory core; several are used in turn by the layers of the stack."""
    network: NetworkConfig = NetworkConfig()
    """The network round the core."""
    agent: AgentConfig = PPOConfig()
    """The algorithm and its hyperparameters."""
    total_steps: int = 1_000_000
    """Environment steps of the run, per seed; rounded up to whole updates."""
    seed: int = 0
    """The first seed."""
    seeds: int = 1
    """Independent agents, trained side by side in one program."""
    evaluation_episodes: int = 128
    """Episodes of the evaluation after training, per seed and policy."""
    best_return: float | None = None
    """The best possible return, where it is known: a line in the learning curve."""
    chance_return: float | None = None
    """The return of an agent without memory, where it is known: a line in the learning curve."""

    def check(self) -> None:
        """Raises `MemrlError` for impossible sizes."""
        for name in ("total_steps", "seeds", "evaluation_episodes", "trials"):
            value = getattr(self, name)
            check(value >= 1, f"experiment: {name} is {value}, expected at least 1")
        last = 2**32 - self.seeds
        check(0 <= self.seed <= last, f"experiment: seed is {self.seed}, expected between 0 and {last}")
        check(
            not self.permute_actions or self.projection is not None,
            "experiment: permute_actions is True without a projection, expected projection to be given as well",
        )
        check(bool(self.cores), "experiment: core is an empty tuple, expected at least one core")

    @property
    def cores(self) -> tuple[CoreConfig, ...]:
        """The cores of the stack, used in turn."""
        return self.core if isinstance(self.core, tuple) else (self.core,)

    @property
    def num_updates(self) -> int:
        """Updates of the whole run."""
        return math.ceil(self.total_steps / self.agent.steps_per_update)


def with_cores(experiment: Experiment, names: str) -> Experiment:
    """The experiment with the core of this name, or with those of several names between commas, defaults otherwise.

    Raises:
        MemrlError: for an unknown name.
    """
    cores = tuple(core_config(name) for name in names.split(","))
    return dataclasses.replace(experiment, core=cores[0] if len(cores) == 1 else cores)


def with_env(experiment: Experiment, name: str) -> Experiment:
    """The experiment in another environment, with its default options; unchanged in its own."""
    if name == experiment.env:
        return experiment
    return dataclasses.replace(experiment, env=name, env_options={}, best_return=None, chance_return=None)


def experiment_to_json(experiment: Experiment) -> dict[str, Any]:
    """The experiment as JSON values; cores and agent carry the `name` they are registered under."""
    cores = [{"name": core_name(core), **dataclasses.asdict(core)} for core in experiment.cores]
    return {
        **dataclasses.asdict(experiment),
        "core": cores if isinstance(experiment.core, tuple) else cores[0],
        "agent": {"name": agent_name(experiment.agent), **dataclasses.asdict(experiment.agent)},
    }


def experiment_from_json(data: Mapping[str, Any]) -> Experiment:
    """The experiment that `experiment_to_json` wrote.

    Raises:
        MemrlError: for unknown or mistyped fields, as an older or newer version may have written.
    """

    fields = dict(data)
    for name in ("core", "agent"):
        check(name in fields, f"experiment has no field {name!r}")
    core = fields["core"]
    fields["core"] = tuple(_named(CORES, c) for c in core) if isinstance(core, list) else _named(CORES, core)
    fields["agent"] = _named(AGENTS, fields["agent"])
    return from_json(Experiment, fields, "experiment")


def _named(registry: Registry[Any], fields: Any) -> Any:
    """The configuration that is registered under the fields' `name`."""
    kind = registry.kind
    named = isinstance(fields, Mapping) and isinstance(fields.get("name"), str)
    check(named, f"experiment: {kind} is {fields!r}, expected its fields and its name")
    others = {key: value for key, value in fields.items() if key != "name"}
    return from_json(registry[fields["name"]].config, others, f"{kind} {fields['name']}")


class Assembly(NamedTuple):
    """What an experiment describes, made."""

    env: Any  # a gymnax environment, as the agent sees it
    env_params: Any
    agent: Agent


def assemble(experiment: Experiment) -> Assembly:
    """Makes the environment, the network's constructor and the agent.

    Raises:
        MemrlError: for anything in the experiment that cannot be made.
    """
    env, env_params = make_environment(experiment)
    make_network = network_maker(experiment, env, env_params)
    spec = AGENTS[agent_name(experiment.agent)]
    shared = experiment.agent.shared
    agent_env = env if shared == "nothing" else SharedStarts(env, shared_noise=shared == "chance")
    agent = spec.agent(agent_env, env_params, make_network, experiment.agent, experiment.num_updates)
    return Assembly(env, env_params, agent)


def make_environment(experiment: Experiment) -> tuple[Any, Any]:
    """The environment as the agent sees it, and its parameters."""
    env, env_params = make_env(experiment.env, **experiment.env_options)
    if experiment.projection is not None:
        env = RandomProjection(env, experiment.projection, experiment.permute_actions)
    if experiment.trials > 1:
        env = Trials(env, experiment.trials)
    network = experiment.network
    if network.previous_action or network.previous_reward or network.episode_start:
        env = PreviousStep(
            env, action=network.previous_action, reward=network.previous_reward, start=network.episode_start
        )
    return env, env_params


def network_maker(experiment: Experiment, env: Any, env_params: Any) -> Callable[[nnx.Rngs], ActorCritic]:
    """The constructor of the experiment's network for an environment."""
    spaces = env.observation_space(env_params), env.action_space(env_params)

    def make_network(rngs: nnx.Rngs) -> ActorCritic:
        critic = experiment.agent.needs_values
        return ActorCritic(*spaces, experiment.cores, experiment.network, critic=critic, rngs=rngs)

    return make_network


class TrainResult(NamedTuple):
    """What training leaves."""

    state: Any  # the agent's train state
    metrics: dict[str, Array]  # [num_updates]


def make_train(experiment: Experiment) -> Callable[[Key], TrainResult]:
    """The whole run as one pure function of a key: jit it, vmap it over keys, shard it.

    train = jax.jit(jax.vmap(memrl.make_train(experiment)))
    result = train(memrl.seed_keys(experiment))
    """
    agent = assemble(experiment).agent

    def train(key: Key) -> TrainResult:
        state, metrics = jax.lax.scan(
            lambda state, _: agent.update(state), agent.init(key), length=experiment.num_updates
        )
        return TrainResult(state, metrics)

    return train


def seed_keys(experiment: Experiment) -> Key:
    """The key of each seed, [S]; a seed's key does not depend on how many others run beside it."""
    seeds = range(experiment.seed, experiment.seed + experiment.seeds)
    return jax.numpy.stack([jax.random.key(seed) for seed in seeds])
