"""Every registered core keeps the contract: registering one tests it."""

import functools

import pytest
from cores.core_contract import Case, CoreContract, D, assert_equals_reference, every_pattern
from cores.core_references import FOLDER, reference_of

from memrl import core_config, list_cores, make_core

CASES = [
    pytest.param((name, i), id=f"{name}-{i}", marks=[pytest.mark.slow] if i > 1 else [])
    for name in list_cores()
    for i in range(len(reference_of(name).variants))
]


@functools.cache
def make_case(name: str, variant: int) -> Case:
    """The core with default hyperparameters (variant 0) or with others that its reference names."""
    known = reference_of(name)
    changes = known.variants[variant]
    return Case(
        lambda rngs: make_core(name, D, rngs=rngs, **changes),
        name=name,
        config=core_config(name, **changes),
        period=known.period,
    )


class TestContract(CoreContract):
    @pytest.fixture(params=CASES)
    def case(self, request):
        return make_case(*request.param)

    @pytest.fixture(params=list_cores())
    def long_case(self, request):
        return make_case(request.param, 0)

    @every_pattern
    def test_equals_the_reference(self, case: Case, resets):
        assert_equals_reference(case, reference_of(case.name).reference, resets)


def test_references_are_of_registered_cores():
    assert {path.stem for path in FOLDER.glob("*.py")} == {*list_cores(), "common"}
