"""Several processes that train one run, on one machine or on many: how they find each other, and notice a loss.

JAX's distributed runtime does the work. What it leaves to us is to say who is missing: where a process does not come,
or ends, or falls silent, JAX waits for minutes and then aborts. So every process keeps a connection to process 0,
opened before JAX's on the same port, on which each says once in a while that it is there.
"""

import contextlib
import dataclasses
import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from memrl.errors import MemrlError, check, one_line
from memrl.runner.signals import Interrupted
from memrl.types import PyTree

SILENCE = 30.0  # seconds without a word after which a process counts as lost
_WORD_EVERY = 5.0  # seconds


@dataclasses.dataclass(frozen=True)
class HostOptions:
    """Several processes that train one run."""

    distributed: bool = False
    """This is one of several processes, perhaps on several machines, that train the run together. They are found as
    JAX finds them, in SLURM, Open MPI, Kubernetes and on TPUs; elsewhere the next three options say where they are."""
    coordinator: str | None = None
    """The address of process 0, HOST:PORT."""
    processes: int | None = None
    """How many processes there are."""
    process: int | None = None
    """Which of them this one is, from 0. Process 0 writes the run folder."""
    join_seconds: float = 300.0
    """How long to wait for the others."""

    def __post_init__(self) -> None:
        """Raises `MemrlError` for options that fit nothing."""
        where = {"coordinator": self.coordinator, "processes": self.processes, "process": self.process}
        given = [name for name, value in where.items() if value is not None]
        check(self.distributed or not given, f"{', '.join(given)} is given, expected --distributed with it")
        check(
            len(given) in (0, 3), f"{', '.join(given)} is given, expected coordinator, processes and process together"
        )
        check(self.join_seconds > 0, f"join_seconds is {self.join_seconds}, expected a positive number")
        if len(given) == 3:
            assert self.coordinator is not None
            assert self.processes is not None
            assert self.process is not None
            host, _, port = self.coordinator.rpartition(":")
            fits = bool(host) and port.isdecimal() and 0 < int(port) < 65536
            check(fits, f"coordinator is {self.coordinator!r}, expected HOST:PORT")
            check(self.processes >= 1, f"processes is {self.processes}, expected at least 1")
            check(0 <= self.process < self.processes, f"process is {self.process}, expected 0 to {self.processes - 1}")


def is_first() -> bool:
    """Whether this process writes: that of a run of one process, and process 0 of several."""
    return jax.process_index() == 0


def several() -> bool:
    """Whether others train the same run."""
    return jax.process_count() > 1


def gather(numbers: Sequence[int]) -> np.ndarray:
    """The numbers of all processes, [processes, n]; all of them must call it."""
    if not several():
        return np.array([numbers])
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(np.array(numbers, np.int32))


def from_first(tree: PyTree) -> PyTree:
    """What process 0 has in the place of the arrays of this one, to the bit; they are on one device of each process.

    All processes must call it, with the same shapes and dtypes.
    """
    from jax.experimental import multihost_utils

    def sent(x: jax.Array) -> jax.Array:
        is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        array = np.asarray(jax.random.key_data(x) if is_key else x)
        # As bytes: they are summed up with the others' zeros, which a number such as -0.0 would not survive.
        data = multihost_utils.broadcast_one_to_all(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        array = jnp.asarray(np.asarray(data).view(array.dtype).reshape(array.shape))
        return jax.random.wrap_key_data(array, impl=jax.random.key_impl(x)) if is_key else array

    return jax.tree.map(sent, tree)


@contextlib.contextmanager
def joined(options: HostOptions, task: str) -> Iterator[None]:
    """Within it, this process is one of those that the options name; without `distributed` it is alone.

    Where one of them is lost, the others end with a line and exit code 2, wherever they are. Process 0 leaves first.

    Args:
        options: who they are.
        task: what they are to do; it must be the same for all.

    Raises:
        MemrlError: for a process that does not come, or comes with another task.
    """
    if not options.distributed:
        yield
        return
    place = _find_place(options)
    with _Meeting(place, task, options.join_seconds) as meeting:
        try:
            jax.distributed.initialize(
                place.address,
                place.processes,
                place.process,
                place.devices,
                initialization_timeout=int(options.join_seconds) + 1,
            )
        except RuntimeError as error:
            raise MemrlError(f"distributed: {error}") from error
        meeting.watch()
        yield


class _Place(NamedTuple):
    """Where a process stands among the others."""

    address: str  # of process 0, HOST:PORT
    processes: int
    process: int
    devices: Sequence[int] | None  # those of the machine's devices that are this process's; None for all


def _find_place(options: HostOptions) -> _Place:
    if options.coordinator is not None:
        assert options.processes is not None
        assert options.process is not None
        return _Place(options.coordinator, options.processes, options.process, None)
    # What `jax.distributed.initialize` does; no public function says what it found.
    from jax._src.clusters import ClusterEnv

    found = ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, int(options.join_seconds))
    check(None not in found[:3], "distributed: no cluster was found, expected coordinator, processes and process")
    return _Place(*found)  # type: ignore[arg-type]


class _Meeting:
    """The connections between process 0 and each of the others; a context manager.

    Both ends of a connection say a word a line, each a JSON object: {} to be heard; {"end": null} before they leave, or
    {"end": "why"} when they fail.
    """

    def __init__(self, place: _Place, task: str, seconds: float):
        self._place = place
        self._deadline = time.monotonic() + seconds
        self._seconds = seconds
        self._task = task
        self._peers: dict[int, _Peer] = {}
        self._watcher: threading.Thread | None = None
        self._speaker: threading.Thread | None = None
        self._leaving = threading.Event()
        self._failed = False
        self._aborting = threading.Lock()

    def __enter__(self) -> "_Meeting":
        try:
            if self._place.process == 0:
                self._receive_all()
            else:
                self._report_to_first()
        except BaseException as error:
            self._end(_reason(error))
            self._close()
            raise
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if self._watcher is None:  # the others still wait to begin
            self._end(_reason(error))
            self._close()
        elif error is None or isinstance(error, Interrupted):
            self._end(None)
            self._watcher.join()  # process 0 may have more to do, and JAX's shutdown does not wait for long
            self._close()
        else:
            if not isinstance(error, MemrlError):
                self._watcher.join(_WORD_EVERY)  # perhaps another was lost, and JAX noticed first
            self._end(_reason(error))
            line = one_line(error) if isinstance(error, Exception) else None
            if line is None:
                traceback.print_exception(error)
            _exit(line, 1 if line is None else 2)

    def watch(self) -> None:
        """From here on, the loss of another ends this process."""
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._speaker = threading.Thread(target=self._speak, daemon=True)
        self._watcher.start()
        self._speaker.start()

    def _receive_all(self) -> None:
        """Process 0: waits until all others have come."""
        others = set(range(1, self._place.processes))
        try:
            with _listen(int(self._place.address.rpartition(":")[2])) as listener:
                while missing := sorted(others - self._peers.keys()):
                    left = self._deadline - time.monotonic()
                    if left <= 0:
                        names = f"process {missing[0]}" if len(missing) == 1 else f"processes {_listed(missing)}"
                        raise MemrlError(
                            f"distributed: {names} of {self._place.processes} did not join within {self._seconds:g} s"
                        )
                    listener.settimeout(min(left, 1.0))
                    with contextlib.suppress(TimeoutError):
                        self._receive(_Peer(listener.accept()[0]))
        except OSError as error:
            reason = error.strerror or error
            raise MemrlError(f"distributed: cannot listen at {self._place.address}: {reason}") from error
        for peer in self._peers.values():
            peer.say({"go": True})

    def _receive(self, peer: "_Peer") -> None:
        hello = peer.hear(timeout=5.0)
        if hello is None or "process" not in hello:  # a stranger
            peer.close()
            return
        process, count = hello["process"], self._place.processes
        peer.name = f"process {process} ({hello['host']})"
        known, claimed = set(self._peers), hello["processes"]
        self._peers[-1 if process in known else process] = peer  # is also told what is wrong
        check(claimed == count, f"distributed: {peer.name} is one of {claimed} processes, expected one of {count}")
        check(0 < process < count, f"distributed: {peer.name} is there, expected processes 0 to {count - 1}")
        check(process not in known, f"distributed: process {process} is there twice, on {hello['host']}")
        check(hello["task"] == self._task, f"distributed: {peer.name} was started with another experiment or mesh")

    def _report_to_first(self) -> None:
        """Another process: finds process 0, and waits until it has all of them."""
        host, _, port = self._place.address.rpartition(":")
        peer = None
        while peer is None:
            left = self._deadline - time.monotonic()
            check(
                left > 0, f"distributed: process 0 did not answer at {self._place.address} within {self._seconds:g} s"
            )
            try:
                peer = _Peer(socket.create_connection((host.strip("[]"), int(port)), timeout=min(left, 5.0)))
            except OSError:
                time.sleep(0.2)
        peer.name = f"process 0 ({self._place.address})"
        self._peers[0] = peer
        hello = {"process": self._place.process, "processes": self._place.processes, "host": socket.gethostname()}
        peer.say({**hello, "task": self._task})
        answer = peer.hear(timeout=max(self._deadline - time.monotonic(), 0) + 5.0)
        check(answer is not None, f"distributed: {peer.name} was lost before all had joined")
        assert answer is not None
        if "go" not in answer:
            raise MemrlError(answer.get("end") or f"distributed: {peer.name} stopped")

    def _watch(self) -> None:
        """Returns when all others have left."""
        threads = [threading.Thread(target=self._watch_one, args=(peer,), daemon=True) for peer in self._peers.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _watch_one(self, peer: "_Peer") -> None:
        while True:
            word = peer.hear(timeout=SILENCE)
            lost, why = word is None, (word or {}).get("end")
            if self._failed and (lost or why):  # it follows this process
                return
            if lost:
                self._abort(f"{peer.name} was lost; the run can be resumed")
            if why is not None:
                self._abort(f"{peer.name} stopped: {why}")
            if word and "end" in word:
                return

    def _abort(self, reason: str) -> None:
        """Ends this process, which may wait for one that is lost in a call that does not return."""
        with self._aborting:  # and never released: the first reason is the one to tell
            self._end(reason)
            _exit(f"memrl: {reason}", 2)

    def _speak(self) -> None:
        while not self._leaving.wait(_WORD_EVERY):
            for peer in self._peers.values():
                peer.say({})

    def _end(self, reason: str | None) -> None:
        self._failed = reason is not None
        self._leaving.set()
        for peer in self._peers.values():
            peer.say({"end": reason})

    def _close(self) -> None:
        for peer in self._peers.values():
            peer.close()


class _Peer:
    """One end of a connection."""

    def __init__(self, connection: socket.socket):
        self.name = "a process"
        self._connection = connection
        self._rest = b""
        self._lock = threading.Lock()

    def say(self, word: dict[str, Any]) -> None:
        """Says it if there is one to hear it."""
        with contextlib.suppress(OSError), self._lock:
            self._connection.sendall(json.dumps(word).encode() + b"\n")

    def hear(self, timeout: float) -> dict[str, Any] | None:
        """The next word, or None: the other end is gone, or silent for too long."""
        self._connection.settimeout(timeout)
        try:
            while b"\n" not in self._rest:
                data = self._connection.recv(4096)
                if not data:
                    return None
                self._rest += data
            line, _, self._rest = self._rest.partition(b"\n")
            word = json.loads(line)
        except (OSError, ValueError):
            return None
        return word if isinstance(word, dict) else None

    def close(self) -> None:
        """Lets go of it."""
        self._connection.close()


def _exit(line: str | None, code: int) -> None:
    """Ends the process here and now: on the usual way out, JAX would wait for those that are lost."""
    cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # a progress display hides it
    sys.stderr.write(cursor if line is None else f"{cursor}\r{line}\n" if cursor else f"{line}\n")
    sys.stderr.flush()
    sys.stdout.flush()
    os._exit(code)


def _reason(error: BaseException | None) -> str:
    return str(error) if isinstance(error, MemrlError) else f"{type(error).__name__} {error}".strip()


def _listen(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _listed(numbers: Sequence[int]) -> str:
    return f"{', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
