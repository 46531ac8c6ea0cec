"""What a user can get wrong about a core is one line that says how to put it right."""

import dataclasses

import pytest
from flax import nnx

from memrl import CoreConfig, GRUConfig, LSTMConfig, MemrlError, S5Config, core_config, list_cores, make_core
from memrl.cores import core_name

MISTAKES = [
    ("grru", {}, "unknown core 'grru': did you mean 'gru'? known: "),
    ("GRU", {}, "did you mean 'gru'?"),
    (
        "gru",
        {"hiden_size": 8},
        "unknown hyperparameter of core gru 'hiden_size': did you mean 'hidden_size'?",
    ),
    ("s5", {"hidden": 8}, "known: activation, basis, blocks, dt_max, dt_min, state_size"),
    ("gru", {"hidden_size": "8"}, "core gru: hidden_size is '8', expected int or None"),
    ("gru", {"hidden_size": 8.0}, "core gru: hidden_size is 8.0, expected int or None"),
    ("gru", {"hidden_size": True}, "core gru: hidden_size is True, expected int or None"),
    ("lstm", {"forget_bias": None}, "core lstm: forget_bias is None, expected float"),
    ("s5", {"activation": "relu"}, "core s5: activation is 'relu', expected one of 'full_glu', 'half_glu'"),
    ("s5", {"basis": "legd"}, "core s5: basis is 'legd', expected one of 'legs', 'legt', 'fout'"),
    ("gru", {"hidden_size": 0}, "core gru: hidden_size is 0, expected more than 0"),
    ("lstm", {"hidden_size": -1}, "core lstm: hidden_size is -1, expected more than 0"),
    ("mlp", {"hidden_size": 0}, "core mlp: hidden_size is 0, expected more than 0"),
    ("gru", {"scan": "newtn"}, "core gru: scan is 'newtn', expected one of 'sequential', 'newton'"),
    ("lstm", {"scan": "auto"}, "core lstm: scan is 'auto', expected one of 'sequential', 'newton'"),
    ("s5", {"blocks": 0}, "core s5: blocks is 0, expected more than 0"),
    ("s5", {"blocks": 3}, "core s5: state_size is 8, expected a multiple of 2 * blocks = 6"),
    ("s5", {"state_size": 7}, "core s5: state_size is 7, expected a multiple of 2 * blocks = 2"),
    ("s5", {"dt_min": 0.0}, "core s5: dt_min is 0.0, expected more than 0"),
    ("s5", {"dt_min": 0.1, "dt_max": 0.01}, "core s5: dt_max is 0.01, expected at least 0.1"),
    ("aaren", {"heads": 3}, "core aaren: features is 8, expected a multiple of heads = 3"),
    ("ffm", {"max_period": 0.5}, "core ffm: max_period is 0.5, expected at least 1.0"),
    ("indrnn", {"recurrent_bound": 0.0}, "core indrnn: recurrent_bound is 0.0, expected more than 0"),
    ("lmu", {"order": 0}, "core lmu: order is 0, expected more than 0"),
    ("mamba", {"dt_min": 0.1, "dt_max": 0.01}, "core mamba: dt_max is 0.01, expected at least 0.1"),
    ("mamba", {"conv_width": 0}, "core mamba: conv_width is 0, expected more than 0"),
    ("mgu", {"hidden_size": 0}, "core mgu: hidden_size is 0, expected more than 0"),
    ("mlstm", {"heads": 3}, "core mlstm: expansion * features is 16, expected a multiple of heads = 3"),
    ("mlstm", {"projection_block": 3}, "expansion * features is 16, expected a multiple of projection_block = 3"),
    ("plstm", {"heads": 3}, "core plstm: features is 8, expected a multiple of heads = 3"),
    ("plstm", {"key_width": 0}, "core plstm: key_width is 0, expected more than 0"),
    ("plstm", {"conv_width": 0}, "core plstm: conv_width is 0, expected more than 0"),
    ("plstm", {"transition_scale": 0.0}, "core plstm: transition_scale is 0.0, expected more than 0"),
    ("plstm", {"gate_weights": "small"}, "core plstm: gate_weights is 'small', expected one of 'zeros', 'normal'"),
    ("slstm", {"heads": 3}, "core slstm: features is 8, expected a multiple of heads = 3"),
    ("slstm", {"forget_power": 0.0}, "core slstm: forget_power is 0.0, expected more than 0"),
    ("slstm", {"recurrent_init": "normal"}, "recurrent_init is 'normal', expected one of 'zeros', 'uniform'"),
]


def message_of(make, *args, **kwargs):
    with pytest.raises(MemrlError) as error:
        make(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(("name", "hyperparameters", "says"), MISTAKES, ids=str)
def test_mistakes(name, hyperparameters, says):
    assert says in message_of(make_core, name, 8, rngs=nnx.Rngs(0), **hyperparameters)


@pytest.mark.parametrize("name", list_cores())
def test_width_must_be_positive(name):
    says = f"core {name}: features is 0, expected more than 0"
    assert message_of(make_core, name, 0, rngs=nnx.Rngs(0)) == says


@pytest.mark.parametrize("name", list_cores())
def test_every_core_names_its_hyperparameters(name):
    known = [field.name for field in dataclasses.fields(core_config(name))]
    message = message_of(core_config, name, no_such_thing=1)
    assert f"unknown hyperparameter of core {name} 'no_such_thing'" in message
    assert all(field in message for field in known)


def test_an_unknown_core_names_all_cores():
    assert message_of(make_core, "zzz", 8, rngs=nnx.Rngs(0)) == f"unknown core 'zzz': known: {', '.join(list_cores())}"


def test_a_config_made_by_hand_is_checked_too():
    says = message_of(GRUConfig, hidden_size="8")
    assert says == "core gru: hidden_size is '8', expected int or None"
    says = message_of(LSTMConfig, forget_bias=None)
    assert says == "core lstm: forget_bias is None, expected float"
    assert "core is a CoreConfig, expected the configuration of one of" in message_of(core_name, CoreConfig())


@pytest.mark.parametrize("name", list_cores())
def test_names_and_configs_belong_together(name):
    assert core_name(core_config(name)) == name
    assert list(list_cores()) == sorted(list_cores())


def test_hyperparameters_reach_the_core():
    assert core_config("s5", blocks=2, state_size=8) == S5Config(state_size=8, blocks=2)
    core = make_core("gru", 8, rngs=nnx.Rngs(0), hidden_size=5)
    assert core.initial_state(2).shape == (2, 5)
