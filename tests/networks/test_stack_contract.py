"""A stack of cores is itself a core, and keeps the contract."""

import functools

import pytest
from cores.core_contract import Case, CoreContract, D

from memrl import StackConfig, core_config
from memrl.networks import MemoryStack

CONFIG = StackConfig(layers=2, residual="gate", feed_forward=6)


@functools.cache
def make_case() -> Case:
    cores = [core_config("gru", hidden_size=5), core_config("s5")]
    return Case(lambda rngs: MemoryStack(D, cores, CONFIG, rngs=rngs))


class TestStackContract(CoreContract):
    @pytest.fixture
    def case(self):
        return make_case()

    @pytest.fixture
    def long_case(self):
        return make_case()
