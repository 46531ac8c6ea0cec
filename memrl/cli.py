"""The `memrl` command: train, compare, eval, play, report, export, bench, list."""

import contextlib
import dataclasses
import gc
import importlib.util
import io
import itertools
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import jax
import tyro
from rich.console import Console

from memrl.agents import list_agents
from memrl.cores import core_name as name_of_core
from memrl.cores import list_cores
from memrl.envs import env_options, list_envs
from memrl.errors import MemrlError, check, one_line, unknown_name
from memrl.experiment import Experiment, experiment_to_json, seed_keys, with_cores, with_env
from memrl.runner import Interrupted, RunOptions, load_saved, run
from memrl.runner.compare import CompareOptions, Grid
from memrl.runner.compare import compare as run_comparison
from memrl.runner.evaluation import evaluate, summarise
from memrl.runner.hosts import HostOptions, joined
from memrl.runner.match import match_width
from memrl.runner.play import RecordingOptions, play_random, play_run
from memrl.runner.program import enable_compilation_cache
from memrl.runner.saved import elsewhere, load_experiment

_USAGE = """\
usage: memrl COMMAND ...

  memrl train CONFIG   train the agent that a config script describes
  memrl compare CONFIG train it with several cores, environments or hyperparameters
  memrl eval RUN       evaluate a trained agent on fresh episodes
  memrl play ENV       record an episode as a GIF, with --run RUN a trained agent's
  memrl export RUN     write a trained agent's policy as a folder of its own
  memrl report RUNS    what runs have learned: a page, pictures and tables
  memrl bench kernels  measure the kernels on this machine
  memrl list WHAT      the names of all cores, envs or agents

memrl COMMAND --help says more. To begin with: memrl train configs/quickstart.py
"""

T = TypeVar("T")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; a user's mistake ends it with one line and exit code 2."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    commands: dict[str, Callable[[list[str]], None]] = {
        "train": train,
        "compare": compare,
        "eval": evaluate_run,
        "play": play,
        "export": export,
        "report": report,
        "bench": bench,
        "list": list_names,
    }
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            print(_USAGE, end="")
        elif arguments[0] not in commands:
            raise unknown_name("command", arguments[0], commands)
        else:
            commands[arguments[0]](arguments[1:])
    except Interrupted as error:
        sys.exit(128 + error.signal_number)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        line = one_line(error)
        if line is None:
            raise
        print(line, file=sys.stderr)
        sys.exit(2)


def train(arguments: list[str]) -> None:
    """Trains the agent that a config script describes, and leaves a run folder."""
    script, core, env = _first_look(arguments)
    experiment = load_config(script)
    if core is not None:
        experiment = with_cores(experiment, core)
    if env is not None:
        experiment = with_env(experiment, env)
    experiment, options, hosts, out = _parse_train(arguments, script, experiment)
    assert script is not None  # without one, --help has ended the command
    enable_compilation_cache()
    names = "-".join(dict.fromkeys(map(name_of_core, experiment.cores)))
    gc.freeze()  # what is imported stays: no collection needs to look at it again
    with joined(hosts, task=f"{experiment_to_json(experiment)} {options.mesh}"):
        run(experiment, out or Path("runs") / f"{script.stem}-{names}", options, script)


def _first_look(arguments: list[str]) -> tuple[Path | None, str | None, str | None]:
    """The config script, and the cores and environment that replace the script's: they decide which options exist."""
    scripts = [a for a in arguments if a.endswith(".py") and not a.startswith("-")]
    if not scripts and not {"-h", "--help"} & set(arguments):
        given = next((a for a in arguments[:1] if not a.startswith("-")), None)
        raise MemrlError(f"train: config is {given}, expected a config script ending in .py")
    script = Path(scripts[0]) if scripts else None
    return script, _value_of("--core", arguments), _value_of("--env", arguments)


def _value_of(option: str, arguments: list[str]) -> str | None:
    """The last value given to an option, as `--option value` or `--option=value`."""
    found = None
    for argument, following in zip(arguments, [*arguments[1:], None], strict=False):
        if argument == option:
            found = following
        elif argument.startswith(f"{option}="):
            found = argument.partition("=")[2]
    return found


def load_config(script: Path | None) -> Experiment:
    """The `experiment` that a config script defines.

    Raises:
        MemrlError: if the script is missing, raises, or defines no `experiment`.
    """
    if script is None:  # memrl train --help, without a script
        return Experiment(env="memory/TMaze")
    check(script.is_file(), f"train: config {script} is not a file")
    spec = importlib.util.spec_from_file_location("memrl_config", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["memrl_config"] = module
    try:
        spec.loader.exec_module(module)
    except MemrlError as error:
        raise MemrlError(f"config {script}: {error}") from error
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f.lineno for f in frames if Path(f.filename).resolve() == script.resolve()]
        line = getattr(error, "lineno", None) or (lines[-1] if lines else "?")
        raise MemrlError(f"config {script}, line {line}: {type(error).__name__}: {error}") from error
    experiment = getattr(module, "experiment", None)
    check(
        isinstance(experiment, Experiment),
        f"config {script}: experiment is {experiment!r}, expected a memrl.Experiment",
    )
    return experiment  # type: ignore[return-value]


def _parse_train(
    arguments: list[str], script: Path | None, experiment: Experiment
) -> tuple[Experiment, RunOptions, HostOptions, Path | None]:
    env_type = _options_of(experiment)

    @dataclasses.dataclass(frozen=True)
    class Train:
        """Train the agent that a config script describes. Every field of its experiment can be overridden."""

        config: Annotated[
            tyro.conf.Positional[Path],
            tyro.conf.arg(help="Config script: a Python file that defines `experiment`."),
        ]
        experiment: Annotated[Experiment, tyro.conf.arg(name="")]
        env_options: Annotated[Any, tyro.conf.arg(name="env", constructor=env_type)]
        options: Annotated[RunOptions, tyro.conf.arg(name="")]
        hosts: Annotated[HostOptions, tyro.conf.arg(name="")]
        core: Annotated[
            str | None,
            tyro.conf.arg(
                help="Replace the memory core by the one of this name, or by several, for the layers in turn:"
                " s5,s5,s5,window_attention. See `memrl list cores`."
            ),
        ] = None
        match: Annotated[
            str | None,
            tyro.conf.arg(help="Choose the width (network.features): parameters=500k, or state=64KiB per environment."),
        ] = None
        out: Annotated[Path | None, tyro.conf.arg(help="The run folder. runs/CONFIG-CORE when not given.")] = None

    default = Train(script or Path("CONFIG"), experiment, env_type(), RunOptions(), HostOptions())
    parsed = parse(Train, arguments, prog="memrl train", default=default)
    experiment = _with_options(parsed.experiment, experiment, parsed.env_options)
    if parsed.match is not None:
        experiment = match_width(experiment, parsed.match)
    return experiment, parsed.options, parsed.hosts, parsed.out


def _options_of(experiment: Experiment) -> type:
    """A dataclass of the options of an experiment's environment, with its values."""
    return _options_type(experiment.env, {**env_options(experiment.env), **experiment.env_options})


def _with_options(parsed: Experiment, default: Experiment, options: Any) -> Experiment:
    """The parsed experiment with those options that its default named, or that differ from the environment's own."""
    own = {**env_options(default.env), **default.env_options}
    values = dataclasses.asdict(options)
    changed = {name: value for name, value in values.items() if name in default.env_options or value != own[name]}
    return dataclasses.replace(parsed, env_options=changed)


def _options_type(env: str, defaults: Mapping[str, Any]) -> type:
    """A dataclass of an environment's options."""
    fields = [(name, type(value), value) for name, value in defaults.items()]
    env_type = dataclasses.make_dataclass("EnvOptions", fields, frozen=True)
    env_type.__doc__ = f"Options of {env}."
    return env_type


def compare(arguments: list[str]) -> None:
    """Trains what a config script describes with several cores, environments and hyperparameters."""
    # What needs an accelerator happens in other processes, and this one would take its memory.
    jax.config.update("jax_platforms", "cpu")
    script, core, env = _first_look(arguments)
    check(core is None, "compare: core is given, expected --cores")
    check(env is None, "compare: env is given, expected --envs")
    experiment = load_config(script)
    cores, envs = _values_of("--cores", arguments), _values_of("--envs", arguments)
    # With a single one, as in `memrl train`, its options can be given.
    experiment = with_cores(experiment, cores[0]) if len(cores) == 1 else experiment
    experiment = with_env(experiment, envs[0]) if len(envs) == 1 else experiment
    for prefix, names in (("--core.", cores), ("--env.", envs)):
        given = next((a.partition("=")[0] for a in arguments if a.startswith(prefix) and len(names) > 1), None)
        check(
            given is None, f"compare: {given} is given with {', '.join(names)}, expected --sweep {str(given)[2:]}=..."
        )
    env_type = _options_of(experiment)

    @dataclasses.dataclass(frozen=True)
    class Compare:
        """Train the agent that a config script describes with several cores, in several environments, or with several
        values of its fields. Every field of its experiment can be overridden, for all cells alike."""

        config: Annotated[
            tyro.conf.Positional[Path],
            tyro.conf.arg(help="Config script: a Python file that defines `experiment`."),
        ]
        experiment: Annotated[Experiment, tyro.conf.arg(name="")]
        env_options: Annotated[Any, tyro.conf.arg(name="env", constructor=env_type)]
        grid: Annotated[Grid, tyro.conf.arg(name="")] = Grid()
        options: Annotated[CompareOptions, tyro.conf.arg(name="")] = CompareOptions()
        out: Annotated[Path | None, tyro.conf.arg(help="Folder of all runs. runs/compare-CONFIG when not given.")] = (
            None
        )

    default = Compare(script or Path("CONFIG"), experiment, env_type())
    parsed = parse(Compare, arguments, prog="memrl compare", default=default)
    assert script is not None  # without one, --help has ended the command
    experiment = _with_options(parsed.experiment, experiment, parsed.env_options)
    # A single core or environment is the experiment's by now, perhaps with options.
    grid = dataclasses.replace(parsed.grid, cores=cores if len(cores) > 1 else (), envs=envs if len(envs) > 1 else ())
    failures = run_comparison(experiment, grid, parsed.out or Path("runs") / script.stem, parsed.options, script)
    if failures:
        for name, failure in failures.items():
            print(f"memrl: {name}: {failure}", file=sys.stderr)
        sys.exit(1)


def _values_of(option: str, arguments: list[str]) -> tuple[str, ...]:
    """The values given last to an option that takes several, as `--option one two` or `--option=one two`."""
    found: tuple[str, ...] = ()
    for i, argument in enumerate(arguments):
        name, equals, first = argument.partition("=")
        if name == option:
            following = itertools.takewhile(lambda a: not a.startswith("-"), arguments[i + 1 :])
            found = (*([first] if equals else []), *following)
    return found


def evaluate_run(arguments: list[str]) -> None:
    """Evaluates the last checkpoint of a run, greedy and sampled."""
    folder = next((Path(a) for a in arguments[:1] if not a.startswith("-")), None)
    defaults = {}
    if folder is not None:
        experiment = load_experiment(folder)
        defaults = {**env_options(experiment.env), **experiment.env_options}
    env_type = _options_type("the run's environment", defaults)

    @dataclasses.dataclass(frozen=True)
    class Eval:
        """Evaluate the last checkpoint of a run on fresh episodes, with the greedy and with the sampled policy."""

        run: tyro.conf.Positional[Path]
        """The run folder."""
        episodes: int = 128
        """Episodes per seed and policy."""
        seed: int = 1
        """Seed of the episodes; training uses others whatever it is."""
        env_options: Annotated[Any, tyro.conf.arg(name="env", constructor=env_type)] = env_type()

    options = parse(Eval, arguments, prog="memrl eval")
    check(options.episodes >= 1, f"eval: episodes is {options.episodes}, expected at least 1")
    enable_compilation_cache()
    saved = load_saved(options.run)
    changed = {name: x for name, x in dataclasses.asdict(options.env_options).items() if x != defaults.get(name)}
    experiment, assembly, update, states = elsewhere(saved, changed) if changed else saved
    others = "".join(f", {name} {value}" for name, value in changed.items())
    print(f"{options.run}: {experiment.env}{others}, after update {update} of {experiment.num_updates}")
    keys = jax.vmap(jax.random.fold_in, (0, None))(seed_keys(experiment), options.seed)
    for name in ("greedy", "sampled"):
        result = summarise(evaluate(assembly, states, keys, options.episodes, greedy=name == "greedy"))
        print(
            f"{name:<8} return {_number(result['mean_return'])} ± {_number(result['std_return'])}"
            f"   length {_number(result['mean_length'])}   {options.episodes} episodes x {experiment.seeds} seeds"
        )


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def play(arguments: list[str]) -> None:
    """Records an episode as a GIF."""
    env, run_folder = _environment_in(arguments), _value_of("--run", arguments)
    if run_folder is not None:
        options = [a.partition("=")[0] for a in arguments if a.startswith("--env.")]
        check(not options, f"play: {', '.join(options)} is given with --run {run_folder}, expected the run's options")
    defaults = env_options(env) if env and run_folder is None else {}
    env_type = _options_type(env or "ENV", defaults)

    @dataclasses.dataclass(frozen=True)
    class Play:
        """Record an episode as a GIF: the environment, the probabilities of actions, and the value."""

        name: Annotated[
            str | None,
            tyro.conf.Positional,
            tyro.conf.arg(help="The environment; with --run, the run's. See `memrl list envs`.", metavar="ENV"),
        ] = None
        run: Path | None = None
        """The run folder of the agent that acts, with its last checkpoint; without one, actions are random."""
        out: Path | None = None
        """The GIF. ENV.gif in the current folder when not given, with --run episode.gif in the run folder."""
        overwrite: bool = False
        """Replace the GIF where there is one."""
        recording: Annotated[RecordingOptions, tyro.conf.arg(name="")] = RecordingOptions()
        env_options: Annotated[Any, tyro.conf.arg(name="env", constructor=env_type)] = env_type()

    options = parse(Play, arguments, prog="memrl play")
    enable_compilation_cache()
    if options.run is not None:
        path = play_run(options.run, options.name, options.out, options.recording, overwrite=options.overwrite)
    else:
        if options.name is None:
            raise MemrlError("play: env is None, expected an environment, or --run RUN")
        chosen = dataclasses.asdict(options.env_options)
        chosen = {name: value for name, value in chosen.items() if value != defaults[name]}
        path = play_random(options.name, chosen, options.out, options.recording, overwrite=options.overwrite)
    print(path)


def _environment_in(arguments: list[str]) -> str | None:
    """The environment to play, known before the others: it decides which options exist."""
    first = next((a for a in arguments[:1] if not a.startswith("-")), None)
    return next((a for a in arguments if a in list_envs()), first)


def export(arguments: list[str]) -> None:
    """Writes the policy of a run as a folder of its own."""

    @dataclasses.dataclass(frozen=True)
    class Export:
        """Write the policy of a run's last checkpoint as a folder of its own, for `memrl.load_policy`."""

        run: tyro.conf.Positional[Path]
        """The run folder."""
        out: Path | None = None
        """The new folder. `policy` in the run folder when not given."""
        seed_index: int = 0
        """Which of the run's seeds, from 0."""
        sampled: bool = False
        """Draw actions from the policy, rather than taking the most probable ones."""
        overwrite: bool = False
        """Replace the policy where there is one."""

    options = parse(Export, arguments, prog="memrl export")
    from memrl.runner.export import export_run  # jax.export

    greedy = not options.sampled
    print(export_run(options.run, options.out, options.seed_index, greedy=greedy, overwrite=options.overwrite))


def report(arguments: list[str]) -> None:
    """Writes what runs have learned as a page, pictures and tables."""
    from memrl.runner.report import ReportOptions, write_report

    @dataclasses.dataclass(frozen=True)
    class ReportCommand:
        """Write what finished runs have learned: a page that needs no network, and beside it, in a folder of the same
        name, its pictures as PNG and SVG and its tables as CSV, Markdown and LaTeX."""

        runs: tyro.conf.Positional[tuple[Path, ...]]
        """Run folders, or folders with run folders in them."""
        out: Path = Path("report.html")
        """The page."""
        overwrite: bool = False
        """Replace the report where there is one."""
        options: Annotated[ReportOptions, tyro.conf.arg(name="")] = ReportOptions()

    options = parse(ReportCommand, arguments, prog="memrl report")
    check(bool(options.runs), "report: runs is empty, expected run folders, or folders with run folders in them")
    written = write_report(options.runs, options.out, options.options, overwrite=options.overwrite)
    for path, reason in written.comparison.skipped:
        print(f"skipped {path}: {reason}")
    for notice in written.notices:
        print(notice)
    runs = sum(len(entry.runs) for entry in written.comparison.entries.values())
    print(f"{written.page}: {runs} runs, {len(written.comparison.skipped)} skipped")


def bench(arguments: list[str]) -> None:
    """Measures the kernels on this machine."""

    @dataclasses.dataclass(frozen=True)
    class Bench:
        """Measure the kernels beside the ways to do the same without them; compiled programs are not cached."""

        what: tyro.conf.Positional[Literal["kernels"]]
        """What to measure."""
        only: tuple[str, ...] = ()
        """Parts of names of kernels, all when not given."""
        turns: int = 7
        """Times that each is measured; the median counts."""
        out: Path | None = Path("kernels.json")
        """Where the table goes as JSON; None for nowhere."""

    options = parse(Bench, arguments, prog="memrl bench")
    check(options.turns >= 1, f"bench: turns is {options.turns}, expected at least 1")
    from memrl.runner.bench import bench_kernels

    bench_kernels(options.only, options.turns, options.out)


def list_names(arguments: list[str]) -> None:
    """Prints the registered names of one kind."""

    @dataclasses.dataclass(frozen=True)
    class List:
        """List the names that memrl knows."""

        what: tyro.conf.Positional[Literal["cores", "envs", "agents"]]
        """Which names."""
        verbose: bool = False
        """Of cores: parameters, state, cost of a step, and whether time runs in parallel."""
        features: int = 128
        """Width D of the cores that --verbose describes."""

    options = parse(List, arguments, prog="memrl list")
    if options.verbose:
        check(options.what == "cores", f"list: verbose is given with {options.what}, expected it with cores")
        from memrl.runner.listing import core_table

        Console().print(core_table(options.features))
        return
    names = {"cores": list_cores, "envs": list_envs, "agents": list_agents}[options.what]()
    print("\n".join(names))


def parse(kind: type[T], arguments: list[str], prog: str, default: T | None = None) -> T:
    """Parses `arguments` with tyro; its reports become one line.

    Raises:
        MemrlError: for an unknown option (with the nearest match and the known ones) or an unusable value.
    """
    keywords: dict[str, Any] = {} if default is None else {"default": default}
    keywords |= {"prog": prog, "args": arguments, "config": (tyro.conf.AvoidSubcommands,)}
    report = io.StringIO()
    try:
        with contextlib.redirect_stderr(report):
            parsed, unknown = tyro.cli(kind, return_unknown_args=True, **keywords)
    except SystemExit as end:
        if not end.code:
            raise
        raise MemrlError(_one_line(report.getvalue())) from None
    if unknown:
        known = _flags(kind, keywords)
        option = unknown[0].partition("=")[0]
        if option.startswith("-"):
            raise unknown_name(f"option of {prog}", option.replace("_", "-"), known)
        raise MemrlError(f"{prog}: unexpected argument {option!r}")
    return parsed


def _flags(kind: type, keywords: dict[str, Any]) -> list[str]:
    """Every option, read from the help text: tyro has no other public list of them."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        tyro.cli(kind, **{**keywords, "args": ["--help"]})
    return sorted(set(re.findall(r"^\W*(--\w[\w.-]*)", text.getvalue(), re.MULTILINE)))


def _one_line(report: str) -> str:
    """The first statement of tyro's boxed report."""
    lines = [line.strip("│ ").strip() for line in report.splitlines()]
    body = []
    for line in lines:
        if line.startswith(("╭", "╰")):
            continue
        if line.startswith("─"):
            break
        body.append(line)
    return " ".join(body) or "the command line could not be read"
