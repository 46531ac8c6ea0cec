"""Widths at which cores cost the same."""

import dataclasses

import jax
import pytest
from flax import nnx

from memrl import Experiment, MemrlError, core_config
from memrl.cores.facts import core_facts
from memrl.experiment import make_environment, network_maker
from memrl.runner.match import _around, match_width

EXPERIMENT = Experiment(env="memory/TMaze")


def made(experiment):
    """The network, in full."""
    return network_maker(experiment, *make_environment(experiment))(nnx.Rngs(0))


@pytest.mark.parametrize("core", ["gru", "mlp"])
def test_parameters_are_those_of_the_whole_network(core):
    experiment = dataclasses.replace(EXPERIMENT, core=core_config(core))
    matched = match_width(experiment, "parameters=100k")
    size = sum(x.size for x in jax.tree.leaves(nnx.state(made(matched), nnx.Param)))
    assert abs(size / 100_000 - 1) <= 0.1
    assert dataclasses.replace(matched, network=experiment.network) == experiment  # nothing else changes
    assert dataclasses.replace(matched.network, features=128) == experiment.network


@pytest.mark.parametrize(("core", "features"), [("gru", 64), ("lstm", 32)])
def test_state_is_that_of_one_environment(core, features):
    matched = match_width(dataclasses.replace(EXPERIMENT, core=core_config(core)), "state=256")
    assert matched.network.features == features


def test_widths_that_a_core_cannot_have_are_passed_over():
    experiment = dataclasses.replace(EXPERIMENT, core=core_config("s5", blocks=5))  # a multiple of 10
    assert match_width(experiment, "state=1KiB").network.features == 240  # 960 bytes; 256 is none


@pytest.mark.parametrize("target", [1, 5, 6, 7, 20, 1000])
def test_the_search_ends_beside_the_target(target):
    def size_at(multiple):
        return None if multiple % 3 else multiple  # 3, 6, 9, ...

    found = _around(size_at, target)
    below, above = max((m for m in range(3, 512, 3) if m < target), default=3), -(-target // 3) * 3
    assert {below, above} & set(range(3, 512, 3)) <= set(found)


@pytest.mark.parametrize(
    ("match", "says"),
    [
        ("width=3", "match is 'width=3', expected parameters=COUNT or state=BYTES"),
        ("parameters", "match is 'parameters', expected a number such as 500k"),
        ("parameters=many", "match is 'parameters=many', expected a number such as 500k"),
        ("parameters=0", "match is 'parameters=0', expected a number above 0"),
        ("state=3GB", "match is 'state=3GB', expected a number such as 500k"),
        ("state=10", "match is 'state=10', but the nearest width, features = 8, has 32 bytes of state"),
    ],
)
def test_errors_are_one_line(match, says):
    with pytest.raises(MemrlError) as error:
        match_width(EXPERIMENT, match)
    assert str(error.value).startswith(says)


def test_facts_of_a_core():
    facts = core_facts(core_config("gru"), 16)
    weights = 2 * 16 * 3 * 16
    assert facts[:2] == (weights + 3 * 16, 16 * 4)
    assert 2 * weights <= facts.step_flops <= 2.5 * weights
    assert not facts.parallel
    assert core_facts(core_config("s5"), 16).parallel


def test_a_mistake_that_no_width_mends_is_named():
    with pytest.raises(MemrlError, match="unknown environment 'memory/TMase'"):
        match_width(dataclasses.replace(EXPERIMENT, env="memory/TMase"), "parameters=100k")
