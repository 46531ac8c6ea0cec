"""Ctrl-C and SIGTERM, noted so that what runs can save and stop."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


class Interrupted(Exception):  # noqa: N818
    """The run was stopped by a signal, after its state was saved."""

    def __init__(self, signal_number: int):
        super().__init__(signal_number)
        self.signal_number = signal_number


@contextlib.contextmanager
def noted_signals(tell: Callable[[int], None] | None = None) -> Iterator[list[int]]:
    """The signals that arrived; a second one ends the process at once. Only the main thread may listen to them.

    Each is also passed to `tell`.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def note(number: int, frame: Any) -> None:
        del frame
        if tell is not None:
            tell(number)
        if received:
            raise KeyboardInterrupt
        received.append(number)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
