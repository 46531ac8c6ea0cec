"""Every registered core keeps the contract: registering one tests it."""

import functools

import pytest
from cores.core_contract import Case, CoreContract, D, assert_equals_reference, every_pattern
from cores.core_references import FOLDER, ONE_OF_A_KIND, reference_of, with_its_source

from memrl import StackConfig, core_config, list_cores
from memrl.cores import build_core
from memrl.networks import MemoryStack

SLOW = [pytest.mark.slow]
BARE = StackConfig(norm="none", residual="none")


def cases(quick: int):
    """Every core with its defaults and with the variants that its reference names; those from `quick` on are slow."""
    return [
        pytest.param((name, i), id=f"{name}-{i}", marks=[pytest.mark.slow] if i >= quick else [])
        for name in list_cores()
        for i in range(len(reference_of(name).variants))
    ]


def of_own_code(parameters):
    """The same, where it is slow to test what another core's tests have shown."""
    return [
        pytest.param(*p.values, id=p.id, marks=[*p.marks, pytest.mark.slow])
        if reference_of(p.id.rpartition("-")[0]).same_as
        else p
        for p in parameters
    ]


@functools.cache
def make_case(name: str, variant: int) -> Case:
    """The core with default hyperparameters (variant 0) or with others that its reference names."""
    known = reference_of(name)
    config = core_config(name, **known.variants[variant])
    cores = with_its_source(config)

    def make(rngs):
        return build_core(config, D, rngs=rngs) if cores == (config,) else MemoryStack(D, cores, BARE, rngs=rngs)

    return Case(make, name=name, config=config, period=known.period)


def only_some(parameters):
    """Those of one core of a kind; the others are slow, where what is tested depends on how a core computes."""
    return [
        pytest.param(*p.values, id=p.id, marks=[*p.marks, *([] if p.values[0][0] in ONE_OF_A_KIND else SLOW)])
        for p in parameters
    ]


class TestContract(CoreContract):
    @pytest.fixture(params=of_own_code(cases(quick=1)))
    def case(self, request):
        return make_case(*request.param)

    @pytest.fixture(params=only_some(cases(quick=1)))
    def some_case(self, request):
        return make_case(*request.param)

    @pytest.fixture(params=cases(quick=1))
    def case_of_equations(self, request):
        return make_case(*request.param)

    @pytest.fixture(params=of_own_code(pytest.param(name, id=f"{name}-0") for name in list_cores()))
    def long_case(self, request):
        return make_case(request.param, 0)

    @every_pattern
    def test_equals_the_reference(self, case_of_equations: Case, resets):
        assert_equals_reference(case_of_equations, reference_of(case_of_equations.name).reference, resets)


def test_references_are_of_registered_cores():
    assert {path.stem for path in FOLDER.glob("*.py")} == {*list_cores(), "common"}
