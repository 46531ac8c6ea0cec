"""`memrl bench kernels`: how fast the kernels are here, beside the ways to do the same without them, in one run.

Every contender of a case gets the same arrays. They are timed in turns, so that a slow moment of the machine hits them
all, and the median counts; compiling is timed apart. Bytes are those that the case must move at least (each array read
or written once), FLOPs those of the recurrence as it is written.
"""

import ctypes
import importlib.metadata
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from rich.console import Console
from rich.table import Table

from memrl import kernels
from memrl.errors import check
from memrl.kernels.backends import HOPPER, compute_capability
from memrl.types import Array

Contender = Callable[[], tuple[Callable[..., Any], tuple[Any, ...]]]  # makes a function and its arguments
OURS = "memrl"
AT_LEAST = 0.02  # seconds of calls in a turn
COPIED = 2**24  # floats: 64 MB


@dataclass(frozen=True)
class Case:
    """One thing to compute, in several ways."""

    name: str
    size: str
    contenders: dict[str, Contender]
    bytes: float | None = None
    flops: float | None = None
    overwritten: tuple[int, ...] = ()
    """Arguments that a CPU may write over, as a program may that has no further use for them; copied before the clock
    starts. (Elsewhere no contender makes use of it.)"""


@dataclass
class Row:
    """What one contender of a case took."""

    case: str
    size: str
    contender: str
    milliseconds: float
    compile_seconds: float
    gigabytes_per_second: float | None
    share_of_copy: float | None
    gigaflops: float | None
    times_memrl: float
    """How many times as long as memrl it takes."""


def bench_kernels(only: tuple[str, ...], turns: int, out: Path | None) -> list[Row]:
    """Measures the cases whose name contains one of `only` (all when empty), prints a table and writes it to `out`."""
    if out is not None:
        check(
            out.parent.is_dir() and not out.is_dir(),
            f"bench: out is {str(out)!r}, expected a file in a folder that exists",
        )
    _keep_memory()  # before JAX starts its threads, which would have heaps of their own
    device = jax.devices()[0]
    every = list(cases(device.platform))
    chosen = [case for case in every if not only or any(part in case.name for part in only)]
    names = sorted({case.name.split()[0] for case in every})
    check(chosen != [], f"bench: only is {', '.join(only)}, expected parts of {', '.join(names)}")
    console = Console()
    console.print(f"{device.device_kind} ({device.platform}), jax {jax.__version__}")
    rows: list[Row] = []
    copies = []
    for case in chosen:
        measured, copy, absent = measure(case, turns)
        rows += measured
        copies.append(copy)
        for name, reason in absent.items():
            console.print(f"{case.name} {case.size}: {name} is left out ({reason})")
    console.print(_table(rows))
    copy = statistics.median(copies) / 1e9
    console.print(f"copies at {copy:.1f} GB/s, timed in turns with the rest")
    if out is not None:
        versions = {name: importlib.metadata.version(name) for name in ("memrl", "jax", "jaxlib", "flax")}
        record = {"device": device.device_kind, "versions": versions, "copy_gigabytes_per_second": copy}
        out.write_text(json.dumps({**record, "rows": [asdict(row) for row in rows]}, indent=2) + "\n")
    return rows


def measure(case: Case, turns: int) -> tuple[list[Row], float, dict[str, str]]:
    """A row for each contender, the bytes per second of a copy at the same time, and why others are absent."""
    x = jnp.ones(COPIED)
    copy = _Program(lambda x: x + 1, (x,))
    programs, absent = {}, {}
    for name, make in case.contenders.items():
        try:
            function, arguments = make()
            programs[name] = _Program(function, arguments, case.overwritten)
        except Exception as error:  # a peer's package may be absent, or break in any way; so may a kernel on a new card
            if name == OURS:
                raise
            absent[name] = " ".join(f"{type(error).__name__}: {error}".split())
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    copying = []
    for _ in range(turns):
        copying.append(copy.seconds())
        for name, program in programs.items():
            seconds[name].append(program.seconds())
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    bandwidth = 2 * x.nbytes / statistics.median(copying)
    rows = []
    for name, median in medians.items():
        speed = case.bytes / median if case.bytes else None
        rows.append(
            Row(
                case.name,
                case.size,
                name,
                median * 1e3,
                programs[name].compile_seconds,
                speed / 1e9 if speed else None,
                speed / bandwidth if speed else None,
                case.flops / median / 1e9 if case.flops else None,
                median / medians[OURS],
            )
        )
    return rows, bandwidth, absent


class _Program:
    """A compiled function with its arguments, to be timed."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...], overwritten: tuple[int, ...] = ()):
        # On a GPU calls queue, so that launching them costs nothing; elsewhere their memory is used again.
        self.queue = jax.default_backend() == "gpu"
        self.overwritten = () if self.queue else overwritten
        self.arguments = arguments
        start = time.perf_counter()
        self.compiled = jax.jit(function, donate_argnums=self.overwritten).lower(*arguments).compile()
        self.compile_seconds = time.perf_counter() - start
        self._time(1)
        self.calls = max(1, round(AT_LEAST / self._time(1)))

    def seconds(self) -> float:
        """Of a call, after one that brings back the memory that the system took away in the meantime."""
        self._time(1)
        return self._time(self.calls)

    def _time(self, calls: int) -> float:
        arguments = [self._fresh() for _ in range(calls)]
        start = time.perf_counter()
        for call in range(calls):
            result = self.compiled(*arguments[call])
            if call == calls - 1 or not self.queue:
                jax.block_until_ready(result)
            del result
        return (time.perf_counter() - start) / calls

    def _fresh(self) -> tuple[Any, ...]:
        copied = (jnp.copy(x) if i in self.overwritten else x for i, x in enumerate(self.arguments))
        return jax.block_until_ready(tuple(copied))


def _keep_memory() -> None:
    """Freed memory stays with the process: fresh pages for every call's results would be most of what is measured."""
    if sys.platform == "linux":
        mallopt = ctypes.CDLL(None).mallopt
        trim_threshold, top_pad, mmap_max, arena_max = -1, -2, -4, -8  # as in malloc.h
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(top_pad, 2**26)
        mallopt(mmap_max, 0)
        mallopt(arena_max, 1)


def cases(platform: str) -> Iterator[Case]:
    """All cases; a GPU gets larger ones too."""
    yield _linear_scan(128, 64, 64, jnp.complex64, backward=True)
    yield _linear_scan(1024, 16, 256, jnp.complex64, backward=True)
    yield _linear_scan(1024, 16, 256, jnp.float32, backward=False)
    yield _linear_scan(1024, 16, 256, jnp.float32, backward=True)
    if platform == "gpu":
        for B in (64, 2048, 4096):
            for backward in (False, True):
                yield _linear_scan(128, B, 128, jnp.float32, backward=backward)
    yield _attention("gated_linear_attention by head", 1024, 4, 4, 64, channels=1)
    yield _attention("gated_linear_attention by channel", 1024, 4, 4, 64, channels=64)
    yield _signed_attention(1024, 4, 4, 64)
    yield _delta_rule(1024, 4, 64)
    yield _dplr(1024, 4, 2, 64)
    yield _selective_scan(1024, 16, 128, 16)
    yield _cell("gru", 128, 8, 256)
    yield _cell("gru", 1024, 1, 64)
    yield _cell("lstm", 128, 8, 256)


def _normal(seed: int, *shape: int) -> Array:
    return jax.random.normal(jax.random.key(seed), shape)


def _resets(T: int, B: int) -> Array:
    return jax.random.bernoulli(jax.random.key(99), 0.02, (T, B))


def _with_gradients(f: Callable[..., Array], count: int) -> Callable[..., Any]:
    """Values, and the gradients of `count` arguments for a cotangent of ones."""

    def run(*arguments):
        value, pull = jax.vjp(lambda *first: f(*first, *arguments[count:]), *arguments[:count])
        return value, pull(jnp.ones_like(value))

    return run


def _linear_scan(T: int, B: int, N: int, dtype: Any, *, backward: bool) -> Case:
    def normal(seed: int) -> Array:
        x = _normal(seed, T, B, N)
        return lax.complex(x, _normal(seed + 1, T, B, N)) if dtype == jnp.complex64 else x.astype(dtype)

    def contender(scan: Callable[..., Array]) -> Contender:
        def make():
            a = normal(0)
            arguments = a / (1 + jnp.abs(a)), normal(2), _resets(T, B)
            return (_with_gradients(scan, 2) if backward else scan), arguments

        return make

    def recurrentgemma() -> tuple[Callable, tuple]:
        from recurrentgemma.jax import complex_lib, scan  # pyright: ignore[reportMissingImports]

        def native(a, b, reset):  # its arrays are [B, T, N]; a reset is a decay of zero
            a, b = (jnp.swapaxes(x, 0, 1) for x in (jnp.where(reset[..., None], 0, a), b))
            if dtype == jnp.complex64:
                a, b = (complex_lib.Complex(lax.real(x), lax.imag(x)) for x in (a, b))
            h = scan.lru_linear_scan(b, a)[0]
            h = lax.complex(h.real, h.imag) if dtype == jnp.complex64 else h
            return jnp.swapaxes(h, 0, 1)

        return contender(native)()

    def by(backend: str) -> Contender:
        return contender(lambda a, b, reset: kernels.linear_scan(a, b, reset=reset, backend=backend)[0])

    mosaic = {"memrl, mosaic": by("mosaic")} if (compute_capability() or 0) >= HOPPER else {}
    arrays = 3 + 5 * backward
    return Case(
        "linear_scan " + ("forward+backward" if backward else "forward"),
        f"[{T}, {B}, {N}] {jnp.dtype(dtype).name}",
        {
            OURS: by("auto"),
            "lax.scan": by("reference"),
            "lax.associative_scan": contender(_associative_with_flag),
            "recurrentgemma": recurrentgemma,
            **mosaic,
        },
        bytes=arrays * T * B * N * jnp.dtype(dtype).itemsize,
        overwritten=(1,),  # a layer computes b for the scan, and for nothing else
    )


def _associative_with_flag(a: Array, b: Array, reset: Array) -> Array:
    """The usual parallel scan with resets: the flag travels with the pair (Lu et al. 2023)."""

    def combine(left, right):
        a_l, b_l, c_l = left
        a_r, b_r, c_r = right
        keep = 1 - c_r
        return a_r * a_l * keep + a_r * c_r, (a_r * b_l + b_r) * keep + b_r * c_r, c_l * keep + c_r

    flag = jnp.broadcast_to(reset[..., None], b.shape).astype(jnp.float32)
    return lax.associative_scan(combine, (a, b, flag))[1]


def _attention(name: str, T: int, B: int, H: int, K: int, channels: int) -> Case:
    def contender(backend: str) -> Contender:
        def make():
            q, k, v = (_normal(seed, T, B, H, K) / K**0.5 for seed in range(3))
            log_decay = -0.1 * jnp.abs(_normal(3, T, B, H, channels))

            def f(q, k, v, log_decay, reset):
                return kernels.gated_linear_attention(q, k, v, log_decay, reset=reset, backend=backend)[0]

            return _with_gradients(f, 4), (q, k, v, log_decay, _resets(T, B))

        return make

    size = f"[{T}, {B}, {H}, {K}]"
    return Case(name, size, {OURS: contender("auto"), "lax.scan": contender("reference")}, flops=18 * T * B * H * K * K)


def _signed_attention(T: int, B: int, H: int, K: int) -> Case:
    def contender(backend: str) -> Contender:
        def make():
            q, k, v = (_normal(seed, T, B, H, K) / K**0.5 for seed in range(3))
            decay = jnp.tanh(5 * _normal(3, T, B, H))

            def f(q, k, v, decay, reset):
                return kernels.signed_linear_attention(q, k, v, decay, reset=reset, backend=backend)[0]

            return _with_gradients(f, 4), (q, k, v, decay, _resets(T, B))

        return make

    size = f"[{T}, {B}, {H}, {K}]"
    contenders = {OURS: contender("auto"), "lax.scan": contender("reference")}
    return Case("signed_linear_attention", size, contenders, flops=18 * T * B * H * K * K)


def _dplr(T: int, B: int, H: int, K: int) -> Case:
    """As RWKV-7 uses it."""

    def contender(backend: str) -> Contender:
        def make():
            q, k, v, key = (_normal(seed, T, B, H, K) / K**0.5 for seed in range(4))
            log_decay = LEAST_LOG_DECAY * jax.nn.sigmoid(_normal(4, T, B, H, K))

            def f(q, k, v, key, log_decay, reset):
                a, b = -_unit(key), 0.5 * _unit(key)
                bound = LEAST_LOG_DECAY
                return kernels.dplr_delta_rule(
                    q, k, v, a, b, log_decay, reset=reset, least_log_decay=bound, backend=backend
                )[0]

            return _with_gradients(f, 5), (q, k, v, key, log_decay, _resets(T, B))

        return make

    size = f"[{T}, {B}, {H}, {K}]"
    contenders = {OURS: contender("auto"), "lax.scan": contender("reference")}
    return Case("dplr_delta_rule", size, contenders, flops=30 * T * B * H * K * K)


LEAST_LOG_DECAY = -0.61  # RWKV-7's


def _delta_rule(T: int, B: int, K: int) -> Case:
    """With the projections of a layer, so that memax's layer is the same work."""

    def ours(backend: str) -> Contender:
        def make():
            weights = [_normal(seed, K, n) / K**0.5 for seed, n in enumerate((K, K, K, 1, 1))]

            def f(weights, x, reset):
                q, k, v, beta, decay = ((x @ w)[:, :, None] for w in weights)
                q, k = (_unit(jax.nn.silu(y)) for y in (q, k))
                beta, log_decay = 2 * jax.nn.sigmoid(beta[..., 0]), jax.nn.log_sigmoid(decay[..., 0] + 4)
                return kernels.gated_delta_rule(q, k, v, beta, log_decay, reset=reset, backend=backend)[0]

            return _with_gradients(f, 2), (weights, _normal(9, T, B, K), _resets(T, B))

        return make

    def memax() -> tuple[Callable, tuple]:
        import equinox  # pyright: ignore[reportMissingImports]
        from memax.equinox.semigroups.gdn import GDN  # pyright: ignore[reportMissingImports]

        arrays, rest = equinox.partition(GDN(K, K, key=jax.random.key(0)), equinox.is_array)

        def f(arrays, x, reset):
            layer = equinox.combine(arrays, rest)
            carry = layer.initialize_carry()
            return jax.vmap(lambda x, start: layer(carry, (x, start))[1], (1, 1), 1)(x, reset)

        return _with_gradients(f, 2), (arrays, _normal(1, T, B, K), _resets(T, B))

    contenders = {OURS: ours("auto"), "lax.scan": ours("reference"), "memax": memax}
    return Case("gated_delta_rule layer", f"[{T}, {B}, 1, {K}]", contenders, flops=24 * T * B * K * K)


def _unit(x: Array) -> Array:
    return x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + 1e-6)


def _selective_scan(T: int, B: int, D: int, N: int) -> Case:
    def contender(backend: str) -> Contender:
        def make():
            x, dt = _normal(0, T, B, D), 0.1 * jax.nn.softplus(_normal(1, T, B, D))
            arguments = x, dt, -jnp.exp(_normal(2, D, N)), _normal(3, T, B, N), _normal(4, T, B, N), _resets(T, B)

            def f(x, dt, A, B, C, reset):
                return kernels.selective_scan(x, dt, A, B, C, reset=reset, backend=backend)[0]

            return _with_gradients(f, 5), arguments

        return make

    size = f"[{T}, {B}, {D}] N={N}"
    return Case("selective_scan", size, {OURS: contender("auto"), "lax.scan": contender("reference")})


def _cell(name: str, T: int, B: int, N: int) -> Case:
    """With the input's projection, as flax's cell has it; flax's knows no resets."""
    gates = {"gru": 3, "lstm": 4}[name]

    def ours(backend: str) -> Contender:
        def make():
            def f(w, u, x, reset):
                z, h0 = x @ w, jnp.zeros((B, N))
                if name == "gru":
                    return kernels.gru_scan(z, u, h0, reset, backend=backend)[0]
                return kernels.lstm_scan(z, u, h0, h0, reset, backend=backend)[0]

            w, u = (_normal(seed, N, gates * N) / N**0.5 for seed in (0, 1))
            return _with_gradients(f, 3), (w, u, _normal(2, T, B, N), _resets(T, B))

        return make

    def flax():
        cell = {"gru": nnx.GRUCell, "lstm": nnx.OptimizedLSTMCell}[name](N, N, rngs=nnx.Rngs(0))
        graph, parameters, rest = nnx.split(nnx.RNN(cell, time_major=True), nnx.Param, ...)
        zeros = jnp.zeros((B, N))

        def f(parameters, x, rest) -> Any:
            carry = zeros if name == "gru" else (zeros, zeros)
            return nnx.merge(graph, parameters, rest)(x, initial_carry=carry)

        return _with_gradients(f, 2), (parameters, _normal(2, T, B, N), rest)

    contenders: dict[str, Contender] = {OURS: ours("auto"), "flax's scanned cell": flax}
    if name == "gru":
        contenders["memrl, newton"] = ours("newton")
    return Case(f"{name}_scan layer", f"[{T}, {B}, {N}]", contenders, flops=12 * T * B * gates * N * N)


def _table(rows: list[Row]) -> Table:
    table = Table("kernel", "size", "by", "ms", "GB/s", "of a copy", "GFLOP/s", "times memrl", "compile s")
    previous = ""
    for row in rows:
        case = f"{row.case} {row.size}"
        if previous not in ("", case):
            table.add_section()
        table.add_row(
            row.case if case != previous else "",
            row.size if case != previous else "",
            row.contender,
            f"{row.milliseconds:.2f}",
            "" if row.gigabytes_per_second is None else f"{row.gigabytes_per_second:.1f}",
            "" if row.share_of_copy is None else f"{row.share_of_copy:.0%}",
            "" if row.gigaflops is None else f"{row.gigaflops:.1f}",
            f"{row.times_memrl:.1f}",
            f"{row.compile_seconds:.1f}",
        )
        previous = case
    return table
