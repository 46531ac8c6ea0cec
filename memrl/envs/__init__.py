"""Environments: one file per family, one line here per name.

    env, params = memrl.envs.make_env("memory/TMaze", length=50)
    observation, state = env.reset(key, params)
    observation, state, reward, terminated, truncated, info = env.step(key, state, action, params)

Every environment follows gymnax 1.x, resets itself at the end of an episode, and works under `jit`, `vmap`
and `scan`.
"""

from typing import Any

from memrl.envs.base import Environment, EnvParams
from memrl.envs.memory.tmaze import TMaze
from memrl.envs.popgym.cartpole import NoisyPositionOnlyCartPole, PositionOnlyCartPole
from memrl.envs.popgym.repeat_previous import RepeatPrevious
from memrl.envs.spec import EnvironmentSpec
from memrl.registry import Registry

__all__ = ["ENVIRONMENTS", "Environment", "EnvironmentSpec", "env_options", "list_envs", "make_env"]

ENVIRONMENTS: Registry[EnvironmentSpec] = Registry("environment")


def _register(name: str, constructor: Any, /, **presets: Any) -> None:
    ENVIRONMENTS.register(name, EnvironmentSpec(lambda: constructor, presets))


def _register_gymnax(gymnax_id: str) -> None:
    def load() -> Any:
        from memrl.envs.gymnax_adapter import gymnax_constructor  # 1.4 s and 150 MB

        return gymnax_constructor(gymnax_id)

    ENVIRONMENTS.register(f"gymnax/{gymnax_id}", EnvironmentSpec(load))


_register("memory/TMaze", TMaze)
_register("popgym/RepeatPreviousEasy", RepeatPrevious)
_register("popgym/RepeatPreviousMedium", RepeatPrevious, k=32, num_decks=2)
_register("popgym/RepeatPreviousHard", RepeatPrevious, k=64, num_decks=3)
_register("popgym/PositionOnlyCartPoleEasy", PositionOnlyCartPole)
_register("popgym/PositionOnlyCartPoleMedium", PositionOnlyCartPole, max_steps_in_episode=400)
_register("popgym/PositionOnlyCartPoleHard", PositionOnlyCartPole, max_steps_in_episode=600)
_register("popgym/NoisyPositionOnlyCartPoleEasy", NoisyPositionOnlyCartPole)
_register("popgym/NoisyPositionOnlyCartPoleMedium", NoisyPositionOnlyCartPole, noise_sigma=0.2)
_register("popgym/NoisyPositionOnlyCartPoleHard", NoisyPositionOnlyCartPole, noise_sigma=0.3)
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


def list_envs() -> tuple[str, ...]:
    """The names that `make_env` takes, in order of registration."""
    return tuple(ENVIRONMENTS)


def env_options(name: str, /) -> dict[str, Any]:
    """Every override that `make_env(name)` takes, with its default.

    Raises `MemrlError` for an unknown name, and for an environment that cannot be made here.
    """
    return ENVIRONMENTS[name].options(name)


def make_env(name: str, /, **overrides: Any) -> tuple[Environment, EnvParams]:
    """The environment called `name`, and its params.

    Raises `MemrlError` for an unknown name or override, for a value of the wrong type or out of range, and
    for an environment that cannot be made here (a data set that is not at hand).
    """
    return ENVIRONMENTS[name].make(name, overrides)
