"""The kernels' benchmark: what it counts and writes, on cases that take no time. Speeds are not tested."""

import json
import sys

import jax
import jax.numpy as jnp
import pytest
from cores.numeric import assert_close

from memrl import cli, kernels
from memrl.runner import bench


def tiny(platform):
    del platform
    yield bench._linear_scan(6, 2, 4, jnp.complex64, backward=True)
    yield bench._linear_scan(6, 2, 4, jnp.float32, backward=False)
    yield bench._delta_rule(6, 2, 4)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(bench, "cases", tiny)
    monkeypatch.setattr(bench, "_keep_memory", lambda: None)
    monkeypatch.setattr(bench, "AT_LEAST", 0)
    monkeypatch.setattr(bench, "COPIED", 2**10)


@pytest.mark.parametrize("case", list(tiny("cpu")), ids=lambda case: f"{case.name} {case.size}")
def test_contenders_compute_the_same(case):
    """A race between different results says nothing; peers have other parameters, and are left out."""
    expected = None
    for name in (bench.OURS, "lax.scan", "lax.associative_scan"):
        if name in case.contenders:
            function, arguments = case.contenders[name]()
            result = jax.jit(function)(*arguments)
            expected = result if expected is None else expected
            assert_close(result, expected, 1e-5, name)


def test_the_flag_travels_with_the_pair():
    a, b = (bench._normal(seed, 7, 2, 3) for seed in (0, 1))
    reset = jnp.zeros((7, 2), bool).at[jnp.array([0, 3, 4])].set(True)
    assert_close(bench._associative_with_flag(a, b, reset), kernels.linear_scan(a, b, reset=reset)[0], 1e-5)


def test_cells_are_layers_of_the_same_size():
    for name in ("gru", "lstm"):
        shapes = []
        for contender in bench._cell(name, 5, 2, 4).contenders.values():
            function, arguments = contender()
            value, _ = jax.eval_shape(function, *arguments)
            shapes.append(value.shape)
        assert set(shapes) == {(5, 2, 4)}
        assert len(shapes) >= 2


def test_every_case_of_every_platform_can_be_made():
    names = {case.name.split()[0] for platform in ("cpu", "gpu") for case in bench.cases(platform)}
    kinds = {"linear_scan", "gated_linear_attention", "gated_delta_rule", "selective_scan", "gru_scan", "lstm_scan"}
    assert names == kinds | {"dplr_delta_rule", "signed_linear_attention"}
    assert names == set(kernels.__all__) - {"NewtonOptions"}


@pytest.mark.usefixtures("quick")
def test_the_table_and_the_file(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench._Program, "seconds", lambda program: 2e-3)
    out = tmp_path / "kernels.json"
    cli.main(["bench", "kernels", "--only", "linear_scan", "--turns", "2", "--out", str(out)])
    printed = capsys.readouterr().out
    assert "copies at 0.0 GB/s" in printed  # 8 KB in 2 ms
    assert "linear_scan forward" in printed
    record = json.loads(out.read_text())
    assert set(record["versions"]) == {"memrl", "jax", "jaxlib", "flax"}
    rows = record["rows"]
    assert {row["case"] for row in rows} == {"linear_scan forward", "linear_scan forward+backward"}
    assert {"memrl", "lax.scan", "lax.associative_scan"} <= {row["contender"] for row in rows}
    for row in rows:
        assert row["milliseconds"] == 2
        moved = (3 if row["case"].endswith("forward") else 8) * 6 * 2 * 4 * (8 if "complex" in row["size"] else 4)
        assert row["gigabytes_per_second"] == pytest.approx(moved / 2e6)
        assert row["share_of_copy"] == pytest.approx(moved / 2**13)
        assert row["compile_seconds"] > 0
        assert row["contender"] != "memrl" or row["times_memrl"] == 1


@pytest.mark.usefixtures("quick")
def test_a_peer_that_is_absent_is_named_and_left_out(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "equinox", None)  # as if it were not installed
    cli.main(["bench", "kernels", "--only", "delta", "--turns", "1", "--out", "None"])
    printed = " ".join(capsys.readouterr().out.split())  # the console breaks lines
    assert "gated_delta_rule layer [6, 2, 1, 4]: memax is left out (ModuleNotFoundError: import of equinox" in printed


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("overwritten", [(), (1,)])
def test_every_call_gets_its_arguments_though_they_are_overwritten(overwritten):
    program = bench._Program(lambda x, y: x + y, (jnp.ones(4), jnp.ones(4)), overwritten)
    program.calls = 5  # however long one took
    for _ in range(2):
        assert program.seconds() > 0
    assert_close(program.arguments, (jnp.ones(4), jnp.ones(4)), 0)


def test_ours_is_not_left_out():
    def broken():
        raise ImportError("broken")

    case = bench.Case("name", "size", {bench.OURS: broken})
    with pytest.raises(ImportError, match="broken"):
        bench.measure(case, 1)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["cores"], "cores"),
        (["kernels", "--turns", "0"], "bench: turns is 0, expected at least 1"),
        (
            ["kernels", "--only", "sort"],
            "bench: only is sort, expected parts of dplr_delta_rule",
        ),
        (["kernels", "--out", "nowhere/k.json"], "bench: out is 'nowhere/k.json', expected a file in a folder"),
        (["kernels", "--tuns", "3"], "did you mean '--turns'?"),
    ],
)
def test_bad_options(arguments, expected, capsys):
    with pytest.raises(SystemExit) as error:
        cli.main(["bench", *arguments])
    assert error.value.code == 2
    message = capsys.readouterr().err
    assert expected in message
    assert message.count("\n") == 1


@pytest.mark.usefixtures("quick")
def test_hopper_is_asked_for_mosaic_too_and_does_without(monkeypatch):
    """A kernel that no compiler takes, here for want of a GPU, is left out like an absent peer."""
    monkeypatch.setattr(bench, "compute_capability", lambda: 9.0)
    case = bench._linear_scan(6, 2, 4, jnp.float32, backward=False)
    rows, _, absent = bench.measure(case, 1)
    assert "lax.scan" in {row.contender for row in rows}
    assert absent["memrl, mosaic"].startswith("MemrlError: linear_scan: backend is 'mosaic', which needs cuda")
