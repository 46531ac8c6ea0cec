from typing import Any

import pytest

from memrl import Experiment, GRUConfig, MemrlError, S5Config
from memrl.runner.sweep import parse_sweep, with_value

EXPERIMENT = Experiment(env="memory/TMaze", env_options={"length": 7})


@pytest.mark.parametrize(
    ("text", "field", "values"),
    [
        ("agent.learning-rate=1e-4,3e-4", "agent.learning_rate", ("1e-4", "3e-4")),
        ("agent.trace=0.9:1.0:3", "agent.trace", ("0.9", "0.95", "1")),
        ("agent.learning-rate=1e-5:1e-3:3:log", "agent.learning_rate", ("1e-05", "0.0001", "0.001")),
        ("network.features=16:64:4", "network.features", ("16", "32", "48", "64")),
        ("agent.clip=0.3:0.1:3,0.5", "agent.clip", ("0.3", "0.2", "0.1", "0.5")),
        ("agent.schedule=linear, cosine", "agent.schedule", ("linear", "cosine")),
    ],
)
def test_lists_and_ranges(text, field, values):
    assert parse_sweep(text) == (field, values)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("agent.clip", "expected FIELD=VALUE,VALUE or FIELD=FIRST:LAST:COUNT"),
        ("=3", "expected FIELD=VALUE,VALUE"),
        ("agent.clip=1,,2", "expected no empty value"),
        ("agent.clip=1,2,1", "expected every value once, not 1 again"),
        ("agent.clip=1:2", "expected a range as 0.9:1.0:3 or 1e-5:1e-3:3:log, not '1:2'"),
        ("agent.clip=1:2:x", "expected a range"),
        ("agent.clip=1:2:1", "expected at least 2 values in '1:2:1'"),
        ("agent.clip=1:2:3:lin", "expected nothing or log after 3"),
        ("agent.clip=1:2:3:log:4", "expected nothing or log after 3"),
        ("agent.clip=0:2:3:log", "expected a range above 0 for log"),
    ],
)
def test_a_sweep_that_cannot_be_read(text, says):
    with pytest.raises(MemrlError) as error:
        parse_sweep(text)
    assert str(error.value).startswith(f"sweep is {text!r}, ")
    assert says in str(error.value)


def test_values_have_the_type_of_their_field():
    def value(field, text, experiment=EXPERIMENT):
        found: Any = with_value(experiment, field, text)
        if field.startswith("env."):
            return found.env_options
        found: Any = found
        for name in field.split("."):
            found = found[int(name)] if name.isdecimal() else getattr(found, name)
        return found

    assert repr(value("agent.learning_rate", "1")) == "1.0"  # as a config would have it
    assert repr(value("total_steps", "1000")) == "1000"
    assert value("agent.value_clip", "0.1") == 0.1
    assert value("agent.value_clip", "none") is None
    assert value("agent.normalise_advantages", "False") is False
    assert value("agent.schedule", "cosine") == "cosine"
    assert value("network.stack.layers", "3") == 3
    assert value("core.hidden_size", "24") == 24
    assert value("env.length", "20") == {"length": 20}
    two = Experiment(env="memory/TMaze", core=(GRUConfig(), S5Config()))
    assert value("core.1.state_size", "16", two) == 16
    assert with_value(two, "core.1.state_size", "16").cores[0] == GRUConfig()


def test_the_rest_stays():
    assert with_value(EXPERIMENT, "agent.clip", "0.2") == EXPERIMENT


@pytest.mark.parametrize(
    ("field", "text", "says"),
    [
        ("agent.learning_rat", "1", "unknown field of ppo 'learning_rat': did you mean 'learning_rate'?"),
        ("agnet.clip", "1", "unknown field of experiment 'agnet': did you mean 'agent'?"),
        ("agent.learning_rate", "fast", "ppo: learning_rate is 'fast', expected float"),
        ("agent.learning_rate", "0", "ppo: learning_rate is 0.0, expected more than 0"),
        ("agent.schedule", "cubic", "ppo: schedule is 'cubic', expected one of 'constant', 'linear', 'cosine'"),
        ("network.features", "16.5", "network: features is '16.5', expected int"),
        ("network.encoder_sizes", "16", "network: encoder_sizes is '16', expected a tuple of int"),
        ("agent.clip.low", "1", "ppo: clip has no field 'low'"),
        ("core", "gru", "experiment: core is 'gru', expected CoreConfig"),
        ("core.state_size", "4", "unknown field of core gru 'state_size'"),
        ("env.lenght", "3", "unknown option of memory/TMaze 'lenght': did you mean 'length'?"),
        ("env.length", "long", "memory/TMaze: length is 'long', expected int"),
    ],
)
def test_values_that_cannot_be(field, text, says):
    with pytest.raises(MemrlError) as error:
        with_value(EXPERIMENT, field, text)
    assert str(error.value).startswith(says)


def test_cores_in_turn_are_counted():
    two = Experiment(env="memory/TMaze", core=(GRUConfig(), S5Config()))
    with pytest.raises(MemrlError, match=r"unknown core in core\.2\.state_size '2': .*known: 0, 1"):
        with_value(two, "core.2.state_size", "4")
    with pytest.raises(MemrlError, match="unknown core in core"):
        with_value(two, "core.state_size", "4")
