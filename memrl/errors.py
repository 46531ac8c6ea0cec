"""What a user did wrong, said in one line.

Every mistake that a user can make raises `MemrlError`. The message names the field, the value and what was expected;
the command line prints it and exits with code 2, library callers get an ordinary exception.
"""

import difflib
import re
from collections.abc import Iterable


class MemrlError(ValueError):
    """A mistake in the user's input: its message is one complete line."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> MemrlError:
    """The error for `name` not being among the `known` names of a `kind`, with the nearest match first."""
    known = sorted(known)
    by_lowercase = {k.lower(): k for k in known}
    near = difflib.get_close_matches(name.lower(), by_lowercase, n=1, cutoff=0.5)
    hint = f"did you mean {by_lowercase[near[0]]!r}? " if near else ""
    return MemrlError(f"unknown {kind} {name!r}: {hint}known: {', '.join(known) or 'none'}")


def check(condition: bool, message: str) -> None:
    """Raises `MemrlError(message)` unless `condition` holds."""
    if not condition:
        raise MemrlError(message)


def from_host(error: Exception) -> MemrlError | None:
    """The `MemrlError` that a callback on the host raised, if that is what made a compiled program fail with `error`.

    The program's error quotes the callback's traceback, which ends in that line.
    """
    found = re.findall(r"^(?:memrl\.errors\.)?MemrlError: (.+)$", str(error), re.MULTILINE)
    return MemrlError(found[-1]) if found else None


def one_line(error: Exception) -> str | None:
    """What the command line prints of an error: a line for mistakes and refusals of the system, None for defects."""
    error = from_host(error) or error  # an environment on the host may have failed
    if isinstance(error, MemrlError):
        return f"memrl: {' '.join(str(error).split())}"
    if isinstance(error, OSError):
        return f"memrl: {error.filename or 'output'}: {error.strerror or error}"
    return None
