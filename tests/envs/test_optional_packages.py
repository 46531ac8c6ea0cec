"""A missing package is named together with the extra that installs it."""

import sys

import pytest

from memrl.envs import make_env
from memrl.envs.optional import needed_by
from memrl.errors import MemrlError


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("gymnasium/CartPole-v1", "gymnasium", "gymnasium"),
        ("craftax/Craftax-Symbolic-v1", "craftax", "craftax"),
        ("navix/Navix-DoorKey-5x5-v0", "navix", "navix"),
        ("xland/MiniGrid-MemoryS8", "xminigrid", "xland"),
        ("brax/ant", "brax", "brax"),
        ("arcade/CartPoleEasy", "popgym_arcade", "arcade"),
    ],
)
def test_a_missing_package_names_the_extra(monkeypatch, name, package, extra):
    for module in [m for m in sys.modules if m.split(".")[0] == package] + [package]:
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, f"memrl.envs.{extra}_adapter", raising=False)
    with pytest.raises(MemrlError) as caught:
        make_env(name)
    wanted = f'environment {name!r} needs the package {package}: pip install "memrl[{extra}]"'
    wanted += " && pip install --no-deps popgym-arcade==0.0.7" if extra == "arcade" else ""
    assert str(caught.value) == wanted


def test_a_package_that_cannot_be_imported_says_why():
    with (
        pytest.raises(MemrlError, match=r"x: pip install x \(cannot import y\)$"),
        needed_by("x/y", "x", "pip install x"),
    ):
        raise ImportError("cannot\nimport y")


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="mine"), needed_by("x/y", "x", "pip install x"):
        raise RuntimeError("mine")
