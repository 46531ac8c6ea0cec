"""The package's shape: who may import whom, what stands at the top level, and what importing it costs."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import memrl

ROOT = Path(__file__).parents[1]
LINKS = {"envs": "memrl/envs", "agents": "memrl/agents", "kernels": "memrl/kernels"}

BASE = {"types", "spaces", "errors", "registry", "config"}
# What each part may import of memrl besides itself. Imports point one way.
LAYERS = ["kernels", "cores", "networks", "agents", "experiment", "runner", "cli", "__main__"]
MAY_IMPORT = {part: BASE | set(LAYERS[:i]) for i, part in enumerate(LAYERS)}
MAY_IMPORT |= dict.fromkeys(BASE, BASE)
MAY_IMPORT["envs"] = BASE
MAY_IMPORT["policy"] = {"errors"}  # a policy acts without the rest
for part in ("experiment", "runner", "cli"):  # where environments, networks and agents meet
    MAY_IMPORT[part] = MAY_IMPORT[part] | {"envs", "policy"}
# Of the cores, agents may know the contract; which core it is, only an experiment says.
CONTRACTS = {"cores", "cores.base"}


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def module_of(path: Path) -> str:
    """`memrl/cores/gru.py` is "cores.gru", `memrl/cores/__init__.py` is "cores"."""
    return ".".join(p for p in path.relative_to(ROOT / "memrl").with_suffix("").parts if p != "__init__")


MODULES = {module_of(path) for path in sources("memrl")}


def imports(path: Path, text: str | None = None) -> Iterator[str]:
    """Names of all imported modules, also in functions; `from a import b` is "a.b" if that is a module."""
    for node in ast.walk(ast.parse(path.read_text() if text is None else text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = ["memrl", *module_of(path).split(".")][: -node.level or None] if node.level else []
            module = ".".join([*package, node.module or ""]).strip(".")
            for alias in node.names:
                full = f"{module}.{alias.name}"
                yield full if full.removeprefix("memrl.") in MODULES else module


def inside(path: Path) -> set[str]:
    """What a module of memrl imports of memrl, without the prefix; the package itself is ""."""
    names = [name for name in imports(path) if name.split(".")[0] == "memrl"]
    return {name.removeprefix("memrl").removeprefix(".") for name in names}


@pytest.mark.parametrize("path", sources("memrl"), ids=lambda path: module_of(path) or "memrl")
def test_imports_point_one_way(path):
    part = module_of(path).split(".")[0]
    if part == "":  # the public API names everything
        return
    assert part in MAY_IMPORT, f"say in test_layout.py what {part} may import"
    for name in inside(path):
        assert name.split(".")[0] in MAY_IMPORT[part] | {part}, f"{module_of(path)} imports memrl.{name}"


@pytest.mark.parametrize("path", sources("memrl/agents"), ids=lambda path: path.name)
def test_agents_know_no_concrete_core_or_environment(path):
    for name in inside(path):
        assert not name.startswith("envs"), name
        assert not name.startswith("cores") or name in CONTRACTS, name
    names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
    from_cores = {config for config in memrl.__all__ if config.endswith("Config")}
    concrete = {name for name in from_cores if getattr(memrl, name).__module__.startswith("memrl.cores.")}
    assert not names & (concrete - {"CoreConfig"})


@pytest.mark.parametrize(
    "path", sources("memrl", "tests", "configs", "benchmarks"), ids=lambda path: str(path.relative_to(ROOT))
)
def test_nobody_imports_through_the_links(path):
    # The top-level folder is a link: importing it would load every class twice.
    assert not [name for name in imports(path) if name.split(".")[0] in LINKS]


@pytest.mark.parametrize(("name", "target"), LINKS.items())
def test_top_level_links(name, target):
    link = ROOT / name
    assert link.is_symlink()
    assert str(link.readlink()) == target
    assert (link / "__init__.py").is_file()


def test_the_links_are_committed_as_links():
    listing = subprocess.run(
        ["git", "ls-files", "--stage", *LINKS], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    modes = {line.split("\t")[1]: line.split()[0] for line in listing.stdout.splitlines()}
    assert modes == dict.fromkeys(LINKS, "120000")


def test_the_public_names_exist_and_are_sorted():
    assert list(memrl.__all__) == sorted(memrl.__all__)
    assert len(set(memrl.__all__)) == len(memrl.__all__)
    assert [name for name in memrl.__all__ if not hasattr(memrl, name)] == []


def test_importing_memrl_does_not_import_trackers():
    script = "import sys, memrl, memrl.cli; print(*{'wandb', 'tensorboardX'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_file_names_of_tests_are_unique():
    # There is no __init__.py in tests, so pytest imports test files, and tests their helpers, by bare name.
    names = [path.name for path in sources("tests") if path.name != "conftest.py"]
    assert sorted(set(names)) == sorted(names)
    assert "__init__.py" not in names


def test_the_import_reader_sees_every_form():
    path = ROOT / "memrl" / "cores" / "gru.py"
    text = """
import memrl.envs, jax
from memrl import runner
from memrl.kernels import linear_scan, gru_scan
from memrl.cores.base import Linear
from . import lstm
from ..errors import check
def f():
    from memrl.runner.train import run
"""
    found = {name.removeprefix("memrl.") for name in imports(path, text)}
    assert {"envs", "jax", "runner", "cores.base", "cores.lstm", "errors", "runner.train"} <= found
    assert {"kernels.linear_scan", "kernels"} <= found
