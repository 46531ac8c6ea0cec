"""Environments: one file per family, one line here per name.

    env, params = memrl.envs.make_env("memory/TMaze", length=50)
    observation, state = env.reset(key, params)
    observation, state, reward, terminated, truncated, info = env.step(key, state, action, params)

Every environment follows gymnax 1.x, resets itself at the end of an episode, and works under `jit`, `vmap`
and `scan`.
"""

import importlib
from collections.abc import Callable
from typing import Any

from memrl.envs.base import Environment, EnvParams
from memrl.envs.memory.associative_recall import AssociativeRecall
from memrl.envs.memory.bsuite import MemoryChain
from memrl.envs.memory.copying import Copy
from memrl.envs.memory.delayed_match import DelayedMatch
from memrl.envs.memory.evidence_accumulation import EvidenceAccumulation
from memrl.envs.memory.key_to_door import KeyToDoor
from memrl.envs.memory.parity import Parity
from memrl.envs.memory.passkey import Passkey
from memrl.envs.memory.set_disjointness import SetDisjointness
from memrl.envs.memory.tmaze import TMaze, TMazeActive
from memrl.envs.meta.bandits import BernoulliBandit, GaussianBandit, LinearBandit
from memrl.envs.meta.cartpole import MetaCartPole
from memrl.envs.meta.dynamical_linear_bandit import DynamicalLinearBandit
from memrl.envs.optional import needed_by
from memrl.envs.popgym.autoencode import Autoencode
from memrl.envs.popgym.battleship import Battleship
from memrl.envs.popgym.cartpole import NoisyPositionOnlyCartPole, PositionOnlyCartPole, VelocityOnlyCartPole
from memrl.envs.popgym.concentration import Concentration
from memrl.envs.popgym.count_recall import CountRecall
from memrl.envs.popgym.higher_lower import HigherLower
from memrl.envs.popgym.labyrinth import LabyrinthEscape, LabyrinthExplore
from memrl.envs.popgym.minesweeper import MineSweeper
from memrl.envs.popgym.multiarmed_bandit import MultiarmedBandit
from memrl.envs.popgym.pendulum import NoisyPositionOnlyPendulum, PositionOnlyPendulum
from memrl.envs.popgym.repeat_first import RepeatFirst
from memrl.envs.popgym.repeat_previous import RepeatPrevious
from memrl.envs.spec import EnvironmentSpec
from memrl.registry import Registry

__all__ = ["ENVIRONMENTS", "Environment", "EnvironmentSpec", "env_options", "list_envs", "make_env"]

ENVIRONMENTS: Registry[EnvironmentSpec] = Registry("environment")


def _register(name: str, constructor: Any, /, **presets: Any) -> None:
    ENVIRONMENTS.register(name, EnvironmentSpec(lambda: constructor, presets))


def _register_popgym(constructor: Any, *presets: dict[str, Any]) -> None:
    for difficulty, preset in zip(("Easy", "Medium", "Hard"), presets, strict=True):
        _register(f"popgym/{constructor.__name__}{difficulty}", constructor, **preset)


def _register_gymnax(gymnax_id: str) -> None:
    def load() -> Any:
        from memrl.envs.gymnax_adapter import gymnax_constructor  # 1.4 s and 150 MB

        return gymnax_constructor(gymnax_id)

    ENVIRONMENTS.register(f"gymnax/{gymnax_id}", EnvironmentSpec(load))


_register("memory/TMaze", TMaze)
_register("memory/TMazeActive", TMazeActive)
_register("memory/KeyToDoor", KeyToDoor)
_register("memory/Parity", Parity)
_register("memory/DelayedMatch", DelayedMatch)
_register("memory/AssociativeRecall", AssociativeRecall)
_register("memory/Passkey", Passkey)
_register("memory/SetDisjointness", SetDisjointness)
_register("memory/Copy", Copy)
_register("memory/MemoryLength", MemoryChain)
_register("memory/MemorySize", MemoryChain, num_bits=10, memory_length=2)
_register("memory/EvidenceAccumulation", EvidenceAccumulation)
_register("meta/CartPole", MetaCartPole)
_register("meta/BernoulliBandit", BernoulliBandit)
_register("meta/GaussianBandit", GaussianBandit)
_register("meta/LinearBandit", LinearBandit)
_register("meta/DynamicalLinearBandit", DynamicalLinearBandit)
_register_popgym(Autoencode, {}, {"num_decks": 2}, {"num_decks": 3})
_register_popgym(Battleship, {"board_size": 8}, {"board_size": 10}, {"board_size": 12})
_register_popgym(
    Concentration,
    {"deck_type": "colors"},
    {"deck_type": "colors", "num_decks": 2},
    {"deck_type": "ranks"},
)
_register_popgym(
    CountRecall,
    {"deck_type": "colors"},
    {"deck_type": "suits", "num_decks": 2},
    {"deck_type": "ranks", "num_decks": 4},
)
_register_popgym(HigherLower, {}, {"num_decks": 2}, {"num_decks": 3})
_register_popgym(LabyrinthEscape, {"size": 10}, {"size": 14}, {"size": 18})
_register_popgym(LabyrinthExplore, {"size": 10}, {"size": 14}, {"size": 18})
_register_popgym(
    MineSweeper,
    {"board_size": 4, "num_mines": 2},
    {"board_size": 6, "num_mines": 6},
    {"board_size": 8, "num_mines": 10},
)
_register_popgym(
    MultiarmedBandit,
    {"num_bandits": 10, "max_steps_in_episode": 200},
    {"num_bandits": 20, "max_steps_in_episode": 400},
    {"num_bandits": 30, "max_steps_in_episode": 600},
)
_register_popgym(RepeatFirst, {}, {"num_decks": 8}, {"num_decks": 16})
_register_popgym(RepeatPrevious, {"k": 4}, {"k": 32, "num_decks": 2}, {"k": 64, "num_decks": 3})
_register_popgym(PositionOnlyCartPole, *({"max_steps_in_episode": n} for n in (200, 400, 600)))
_register_popgym(VelocityOnlyCartPole, *({"max_steps_in_episode": n} for n in (200, 400, 600)))
_register_popgym(NoisyPositionOnlyCartPole, *({"noise_sigma": sigma} for sigma in (0.1, 0.2, 0.3)))
_register_popgym(PositionOnlyPendulum, *({"max_steps_in_episode": n} for n in (200, 150, 100)))
_register_popgym(NoisyPositionOnlyPendulum, *({"noise_sigma": sigma} for sigma in (0.1, 0.2, 0.3)))
for _id in (
    "CartPole-v1",
    "Pendulum-v1",
    "Acrobot-v1",
    "MountainCar-v0",
    "MountainCarContinuous-v0",
    "Asterix-MinAtar",
    "Breakout-MinAtar",
    "Freeway-MinAtar",
    "Seaquest-MinAtar",
    "SpaceInvaders-MinAtar",
    "Catch-bsuite",
    "DeepSea-bsuite",
    "MemoryChain-bsuite",
    "UmbrellaChain-bsuite",
    "DiscountingChain-bsuite",
    "MNISTBandit-bsuite",
    "SimpleBandit-bsuite",
    "FourRooms-misc",
    "MetaMaze-misc",
    "PointRobot-misc",
    "BernoulliBandit-misc",
    "GaussianBandit-misc",
    "Reacher-misc",
    "Swimmer-misc",
    "Pong-misc",
    "FrozenLake-misc",
):
    _register_gymnax(_id)


def _family(prefix: str, package: str, then: str = "") -> Callable[[str], EnvironmentSpec]:
    """Environments of a package that is an extra of the same name as their prefix; only it knows their names."""

    def spec(name: str) -> EnvironmentSpec:
        def load() -> Any:
            with needed_by(name, package, f'pip install "memrl[{prefix}]"{then}'):
                adapter = importlib.import_module(f"memrl.envs.{prefix}_adapter")
            return getattr(adapter, f"{prefix}_constructor")(name.removeprefix(f"{prefix}/"))

        return EnvironmentSpec(load)

    return spec


_FAMILIES = {
    "gymnasium": _family("gymnasium", "gymnasium"),
    "craftax": _family("craftax", "craftax"),
    "navix": _family("navix", "navix"),
    "xland": _family("xland", "xminigrid"),
    # Its own dependencies would overwrite gymnax.
    "arcade": _family("arcade", "popgym_arcade", " && pip install --no-deps popgym-arcade==0.0.7"),
    "brax": _family("brax", "brax"),
}


def _spec(name: str) -> EnvironmentSpec:
    family, slash, _ = name.partition("/")
    return _FAMILIES[family](name) if slash and family in _FAMILIES else ENVIRONMENTS[name]


def list_envs() -> tuple[str, ...]:
    """The names that `make_env` always takes, in order of registration.

    It also takes the names of optional packages, which are not imported for a list: "gymnasium/<id>",
    "craftax/<id>", "navix/<id>", "xland/<id>", "arcade/<id>" and "brax/<id>".
    """
    return tuple(ENVIRONMENTS)


def env_options(name: str, /) -> dict[str, Any]:
    """Every override that `make_env(name)` takes, with its default.

    Raises `MemrlError` for an unknown name, and for an environment that cannot be made here.
    """
    return _spec(name).options(name)


def make_env(name: str, /, **overrides: Any) -> tuple[Environment, EnvParams]:
    """The environment called `name`, and its params.

    Raises `MemrlError` for an unknown name or override, for a value of the wrong type or out of range, and
    for an environment that cannot be made here (a data set that is not at hand, a package that is not installed).
    """
    return _spec(name).make(name, overrides)
