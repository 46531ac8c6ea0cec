"""How a registered environment is made."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from memrl.envs.base import Environment, EnvParams
from memrl.envs.options import constructor_options, converted, params_options
from memrl.errors import MemrlError, unknown_name


@dataclass(frozen=True)
class EnvironmentSpec:
    """A constructor, loaded when it is needed, and the options in which one named variant differs from its defaults.

    Options are the constructor's keyword arguments (they may change shapes) and the fields of the
    environment's `default_params` (they may change between calls of one compiled program). An environment
    that has `check_params(params)` gets the chosen params to judge; it raises `MemrlError` for a value out of
    range.
    """

    load: Callable[[], Callable[..., Environment]]  # so that another suite is imported only when it is used
    presets: Mapping[str, Any] = field(default_factory=dict)

    def options(self, name: str) -> dict[str, Any]:
        """Every option with its default, the constructor's first."""
        _, params = self.make(name, {})
        defaults = {**constructor_options(self.load()), **params_options(params)}
        return {option: self.presets.get(option, default) for option, default in defaults.items()}

    def make(self, name: str, overrides: Mapping[str, Any]) -> tuple[Environment, EnvParams]:
        """The environment and its params with `overrides`, every one of which is checked."""
        owner = f"environment {name!r}"
        values = {**self.presets, **overrides}
        constructed = constructor_options(self.load())
        env = self._construct(owner, converted(constructed, values, owner))
        fields = params_options(env.default_params)
        known = [*constructed, *fields]
        for option in values:
            if option not in known:
                raise unknown_name(f"option of {owner}", option, known)
        params = replace(env.default_params, **converted(fields, values, owner))
        check_params = getattr(env, "check_params", None)
        if check_params is not None:
            check_params(params)
        return env, params

    def _construct(self, owner: str, arguments: Mapping[str, Any]) -> Environment:
        try:
            return self.load()(**arguments)
        except MemrlError:
            raise
        except Exception as error:  # a foreign constructor may fail in any way, such as a failed download
            reason = " ".join(f"{type(error).__name__} {error}".split())
            given = ", ".join(f"{k}={v!r}" for k, v in arguments.items()) or "no options"
            raise MemrlError(f"{owner} cannot be made with {given}: {reason}") from error
