"""Packages that are installed only by those who want their environments."""

import contextlib
from collections.abc import Iterator

from memrl.errors import MemrlError


@contextlib.contextmanager
def needed_by(name: str, package: str, install: str) -> Iterator[None]:
    """Imports inside say what to install where they fail.

    Args:
        name: the environment that is asked for.
        package: the package's name.
        install: the command that installs it.

    Raises:
        MemrlError: where an import fails, be the package absent or broken.
    """
    try:
        yield
    except ImportError as error:
        absent = isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("memrl")
        reason = "" if absent else f" ({' '.join(str(error).split())})"
        raise MemrlError(f"environment {name!r} needs the package {package}: {install}{reason}") from error
