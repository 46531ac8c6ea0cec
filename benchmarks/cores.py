"""Speed of the memory cores, beside memax's and memorax's layers of the same kind and width.

    python benchmarks/cores.py                              # every core, memrl alone
    python benchmarks/cores.py --peers --out cores.json     # also pip install memax memorax
    python benchmarks/cores.py --only gru s5 --compile

A layer of width 128 over 1,024 steps of 16 sequences, float32, with resets at one step in 64: values and the gradients
of all parameters and inputs, of a loss that weighs every output; and a single step of 16 sequences, jitted. "Late" is
the step after 1,024 others, in terms of the first ones: its cost does not grow. Each contender runs in its own process;
the processes take turns, so that all of them meet the same machine, and the ratio to memrl is taken turn by turn:
medians, ranges beside. "On the cores" is the time that the cores worked, which other programs on the machine change
less. One that fails, or whose gradient needs more memory than it may take, is reported by name.

With --compile, the time to trace and compile the gradient of four layers (128 steps, 16 sequences), each core in a
fresh process, without a cache.
"""

import dataclasses
import json
import statistics
from pathlib import Path
from typing import Annotated, Any

import tyro
from processes import Worker
from rich.console import Console
from rich.table import Table

from memrl.cores import list_cores

T, B, D = 1024, 16, 128
COMPILE_LIMIT = 15.0  # seconds
# Peers are typed at run time unless told otherwise. Freed memory stays with the process, in one heap: fresh pages for
# every call's results would be most of what is measured.
ENVIRONMENT = {
    "JAXTYPING_DISABLE": "1",
    "PYTHONOPTIMIZE": "1",
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "MALLOC_TOP_PAD_": str(2**26),
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_ARENA_MAX": "1",
}


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    turns: int = 5
    """Calls of each contender that are timed."""
    only: tuple[str, ...] = ()
    """Names of the cores to measure, all when not given."""
    peers: bool = False
    """Also measure memax and memorax."""
    compile: bool = False
    """Also measure the compile time of four layers."""
    gigabytes: float = 9.0
    """Memory that a contender's gradient may take."""
    out: Annotated[Path | None, tyro.conf.arg(help="Also write the numbers to this JSON file.")] = None


@dataclasses.dataclass(frozen=True)
class Contender:
    """A layer of a library."""

    library: str
    layer: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Case:
    """A core, and the layers of others that do the same."""

    core: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    peers: tuple[Contender, ...] = ()
    matched: str = ""
    """How sizes were made alike."""
    target: float = 1.0
    """How many times as long the peers should take."""


def memax(layer: str, **options: Any) -> Contender:
    return Contender("memax", layer, options)


def memorax(layer: str, **options: Any) -> Contender:
    return Contender("memorax", layer, options)


HEAD = {"heads": 1, "key_width": 64, "value_width": 64}
ONE_HEAD = "one head, 64 wide"
SHARED = [
    Case("gru", {}, (memax("GRU", recurrent_size=D), memorax("GRUCell", features=D)), "128 states"),
    Case("lstm", {}, (memax("LSTM", recurrent_size=D), memorax("OptimizedLSTMCell", features=D)), "128 states"),
    Case("mgu", {}, (memax("MGU", recurrent_size=D), memorax("MGUCell", features=D)), "128 states"),
    Case("mingru", {}, (memorax("MinGRUCell", features=D),), "128 states", 10),
    Case(
        "lru",
        {"activation": "none"},
        (memax("LRU", hidden_size=D, recurrent_size=D), memorax("LRUCell", features=D, hidden_dim=D)),
        "128 complex states, no activation after them",
        10,
    ),
    Case(
        "s5",
        {"activation": "none"},
        (memorax("S5Cell", features=D, state_size=D // 2),),
        "64 complex states, no activation after them",
        10,
    ),
    Case(
        "ffm",
        {},
        (
            memax("FFM", hidden_size=D, trace_size=32, context_size=4),
            memorax("FFMCell", features=D, memory_size=32, context_size=4),
        ),
        "32 traces, 4 frequencies",
    ),
    Case("deltanet", HEAD, (memax("DeltaNet", hidden_size=D, recurrent_size=64),), ONE_HEAD, 30),
    Case("gated_deltanet", HEAD, (memax("GDN", hidden_size=D, recurrent_size=64),), ONE_HEAD, 30),
    Case(
        "deltaproduct",
        {**HEAD, "gated": True},
        (memax("DeltaProduct", hidden_size=D, recurrent_size=64, rank=2),),
        f"{ONE_HEAD}, 2 steps to a token, gated",
        30,
    ),
    Case(
        "mamba",
        {"state_size": 1, "expansion": 1},
        (memax("S6", hidden_size=D, recurrent_size=D),),
        "one state for each of 128 channels",
    ),
    Case(
        "mamba2",
        {"state_size": 16, "heads": 8, "groups": 8},
        (memorax("MambaCell", features=D, num_heads=8, head_dim=32, hidden_dim=16),),
        "8 heads of 32 channels, 16 states, B and C for each head",
    ),
    Case(
        "mlstm",
        {"expansion": 1, "heads": 4},
        (memorax("mLSTMCell", features=D, hidden_dim=D, num_heads=4),),
        "4 heads, 32 wide",
    ),
    Case("slstm", {"heads": 4}, (memorax("sLSTMCell", features=D, hidden_dim=D, num_heads=4),), "4 heads, 32 wide"),
    Case(
        "window_attention",
        {"window": 7, "heads": 1},
        (memax("Attention", recurrent_size=D, window_size=8, positional_embedding="rope"),),
        "one head, 8 steps in view, rotary positions",
    ),
    Case(
        "window_attention",
        {"window": T, "heads": 2},
        (memorax("SelfAttention", features=D, num_heads=2, context_length=T),),
        "2 heads, all steps in view; memorax without positions",
    ),
]


def cases() -> list[Case]:
    """The cores that others have too; and every core as it comes."""
    return SHARED + [Case(name, matched="as it comes") for name in list_cores()]


def main(options: Options) -> None:
    """Measures, prints the table, and writes the numbers."""
    console = Console(width=170)
    chosen = [case for case in cases() if not options.only or case.core in options.only]
    if options.peers and options.only:
        chosen = [case for case in chosen if case.peers] or chosen
    results: list[dict[str, Any]] = []
    for case in chosen:
        console.print(f"{case.core}: {case.matched}")
        results += measure(case, options, console)
        save(results, options.out)
    if options.compile:
        stacks = {name: compile_stack(name) for name in sorted({case.core for case in chosen})}
        results = [r | (stacks[r["core"]] if r["library"] == "memrl" else {}) for r in results]
        save(results, options.out)
    console.print(table(results))


def save(results: list[dict[str, Any]], out: Path | None) -> None:
    if out:
        out.write_text(json.dumps(results, indent=2) + "\n")


def measure(case: Case, options: Options, console: Console) -> list[dict[str, Any]]:
    """A row for memrl's core and for each peer that works."""
    contenders = [Contender("memrl", case.core, case.options), *(case.peers if options.peers else ())]
    workers: dict[str, Worker] = {}
    try:
        for contender in contenders:
            task = dataclasses.asdict(contender) | {"T": T, "B": B, "D": D, "gigabytes": options.gigabytes}
            try:
                worker = Worker(["core.py", json.dumps(task)], ENVIRONMENT)
                if "error" in worker.description:
                    raise RuntimeError(worker.description["error"])
                workers[contender.library] = worker
            except RuntimeError as error:
                console.print(f"  {contender.library} {contender.layer} is left out: {error}")
        numbers = take_turns(workers, options.turns, console)
    finally:
        for worker in workers.values():
            worker.process.kill()
            worker.process.wait()
    rows = [summarise(case, library, workers[library].description, numbers) for library in numbers]
    for row in rows:
        console.print(f"  {row['library']}: {row['gradient'] * 1e3:.1f} ms, step {row['step'] * 1e6:.0f} us")
    return rows


Numbers = dict[str, list[float]]  # of each kind, turn by turn


def take_turns(workers: dict[str, Worker], turns: int, console: Console) -> dict[str, Numbers]:
    """The seconds of each kind, turn by turn, of each worker; one that dies is dropped."""
    kinds = "gradient", "step", "late step"
    numbers: dict[str, Numbers] = {library: {} for library in workers}
    for what in kinds:
        for _ in range(turns):
            for library in list(numbers):
                try:
                    answer = workers[library].ask(what)
                except (RuntimeError, BrokenPipeError) as error:
                    console.print(f"  {library} is left out: {error}")
                    del numbers[library]
                    continue
                numbers[library].setdefault(what, []).append(answer["seconds"])
                numbers[library].setdefault(f"{what} cpu", []).append(answer["cpu_seconds"])
    return numbers


def summarise(case: Case, library: str, description: dict[str, Any], numbers: dict[str, Numbers]) -> dict[str, Any]:
    """Medians over turns; ratios are taken turn by turn, so that a slow moment counts in both."""
    mine = numbers[library]
    row = {"core": case.core, "matched": case.matched, "library": library, "target": case.target, **description}
    row |= {what: statistics.median(seconds) for what, seconds in mine.items()} | {"turns": mine}
    row["growth"] = statistics.median(ratios(mine["late step"], mine["step"]))
    if library == "memrl" or "memrl" not in numbers:
        return row
    for what, seconds in numbers["memrl"].items():
        times = ratios(mine[what], seconds)
        row |= {f"{what} times": statistics.median(times), f"{what} range": [min(times), max(times)]}
    return row


def ratios(above: list[float], below: list[float]) -> list[float]:
    return [x / y for x, y in zip(above, below, strict=True)]


def compile_stack(name: str) -> dict[str, float]:
    """Seconds to compile four layers of a core."""
    worker = Worker(["stack_compile.py", name])
    worker.process.wait()
    return {f"stack {what}": seconds for what, seconds in worker.description.items()}


def table(results: list[dict[str, Any]]) -> Table:
    """The results for people."""
    times = "times memrl"
    names = "core", "", "parameters", "compile", "gradient", times, "on the cores", times, "step", times, "late"
    rows = Table(*names, "4 layers")
    previous = None
    for r in results:
        case = r["core"], r["matched"]
        if previous not in (None, case):
            rows.add_section()
        rows.add_row(
            "" if case == previous else f"{r['core']}: {r['matched']}",
            r["library"],
            f"{r['parameters']:,}",
            f"{r['compile_seconds']:.1f} s",
            f"{r['gradient'] * 1e3:.1f} ms",
            times_memrl(r, "gradient", r["target"]),
            f"{r['gradient cpu'] * 1e3:.1f} ms",
            times_memrl(r, "gradient cpu", r["target"]),
            f"{r['step'] * 1e6:.0f} us",
            times_memrl(r, "step", 1),
            f"{r['growth']:.2f}",
            stack_seconds(r),
        )
        previous = case
    return rows


def stack_seconds(row: dict[str, Any]) -> str:
    """Compile time of four layers, and how much of it the cores worked."""
    if "stack compile_seconds" not in row:
        return ""
    seconds, worked = row["stack compile_seconds"], row["stack compile_cpu_seconds"]
    return f"{seconds:.1f} s ({worked:.1f})" + ("" if seconds < COMPILE_LIMIT else f", not {COMPILE_LIMIT:g}")


def times_memrl(row: dict[str, Any], what: str, target: float) -> str:
    """How many times as long as memrl the row takes; where that is less than it should be, also the target."""
    if f"{what} times" not in row:
        return ""
    times, (low, high) = row[f"{what} times"], row[f"{what} range"]
    missed = f", not {target:g}" if times < target else ""
    return f"{times:.1f} ({low:.1f}-{high:.1f}){missed}"


if __name__ == "__main__":
    main(tyro.cli(Options))
