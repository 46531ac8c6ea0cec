"""A stack of cores is itself a core, and keeps the contract."""

import functools

import pytest
from cores.core_contract import Case, CoreContract, D

from memrl import StackConfig, core_config
from memrl.networks import MemoryStack

GATED = StackConfig(residual="gate", feed_forward=6)
STACKS = {
    "gated": ([core_config("gru", hidden_size=5), core_config("s5")], GATED),
    # A hybrid in which the third layer reads the memory of the first.
    "hybrid": (
        [core_config("s5"), core_config("window_attention", window=3), core_config("gmu", source="s5")],
        StackConfig(),
    ),
}


@functools.cache
def make_case(name: str) -> Case:
    return Case(lambda rngs: MemoryStack(D, *STACKS[name], rngs=rngs))


class TestStackContract(CoreContract):
    @pytest.fixture(params=STACKS)
    def case(self, request):
        return make_case(request.param)

    @pytest.fixture(params=STACKS)
    def long_case(self, request):
        return make_case(request.param)
