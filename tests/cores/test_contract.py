"""Every registered core keeps the contract: registering one tests it."""

import functools

import pytest
from cores.core_contract import Case, CoreContract, D, assert_equals_reference, every_pattern
from cores.references import PERIODS, REFERENCES, VARIANTS

from memrl import core_config, list_cores, make_core

CASES = [(name, i) for name in list_cores() for i in range(1 + len(VARIANTS.get(name, [])))]


@functools.cache
def make_case(name: str, variant: int) -> Case:
    """The core with default hyperparameters (variant 0) or with one of the table's."""
    changes = [{}, *VARIANTS.get(name, [])][variant]
    return Case(
        lambda rngs: make_core(name, D, rngs=rngs, **changes),
        name=name,
        config=core_config(name, **changes),
        period=PERIODS.get(name, 1),
    )


class TestContract(CoreContract):
    @pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
    def case(self, request):
        return make_case(*request.param)

    @pytest.fixture(params=list_cores())
    def long_case(self, request):
        return make_case(request.param, 0)

    @every_pattern
    def test_equals_the_reference(self, case: Case, resets):
        assert_equals_reference(case, REFERENCES[case.name], resets)


@pytest.mark.parametrize("name", list_cores())
def test_every_core_has_a_reference(name):
    assert name in REFERENCES, f"write the equations of core {name!r} in tests/cores/references.py"


def test_the_tables_know_only_registered_cores():
    assert {*REFERENCES, *VARIANTS, *PERIODS} <= set(list_cores())
