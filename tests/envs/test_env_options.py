"""What `make_env` takes and what it refuses."""

import dataclasses
import sys

import gymnax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.utils import load_mnist
from hypothesis import given, settings
from hypothesis import strategies as st

from memrl.envs import EnvironmentSpec, env_options, list_envs, make_env
from memrl.errors import MemrlError

quick = settings(deadline=None, max_examples=60)
OWN = [name for name in list_envs() if not name.startswith("gymnax/")]
PUBLISHED = {
    "memory/TMaze": {"length": 10},
    "popgym/RepeatPreviousEasy": {"k": 4, "num_decks": 1},
    "popgym/RepeatPreviousMedium": {"k": 32, "num_decks": 2},
    "popgym/RepeatPreviousHard": {"k": 64, "num_decks": 3},
    "popgym/PositionOnlyCartPoleEasy": {"max_steps_in_episode": 200},
    "popgym/PositionOnlyCartPoleMedium": {"max_steps_in_episode": 400},
    "popgym/PositionOnlyCartPoleHard": {"max_steps_in_episode": 600},
    "popgym/NoisyPositionOnlyCartPoleEasy": {"max_steps_in_episode": 200, "noise_sigma": 0.1},
    "popgym/NoisyPositionOnlyCartPoleMedium": {"max_steps_in_episode": 200, "noise_sigma": 0.2},
    "popgym/NoisyPositionOnlyCartPoleHard": {"max_steps_in_episode": 200, "noise_sigma": 0.3},
}


def refusal(name, **overrides) -> str:
    with pytest.raises(MemrlError) as caught:
        make_env(name, **overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", PUBLISHED)
def test_defaults_are_the_published_ones(name):
    assert env_options(name) == PUBLISHED[name]


@pytest.mark.parametrize("name", [*OWN, "gymnax/DeepSea-bsuite", "gymnax/FrozenLake-misc"])
def test_every_listed_option_can_be_given(name):
    env, params = make_env(name)
    same_env, same_params = make_env(name, **env_options(name))
    assert params == same_params
    assert name.startswith("gymnax/") or env == same_env


def test_gymnax_options_reach_constructor_and_params():
    env, params = make_env("gymnax/Catch-bsuite", rows=6, columns=3, max_steps_in_episode=7)
    assert env.observation_space(params).shape == (6, 3)  # pyright: ignore[reportAttributeAccessIssue]
    assert params.max_steps_in_episode == 7
    assert make_env("gymnax/DeepSea-bsuite", size=5)[1].max_steps_in_episode == 5


def test_unknown_environment_names_the_nearest():
    assert "did you mean 'memory/TMaze'?" in refusal("memory/TMase")


def test_unknown_option_names_the_nearest_and_the_known():
    message = refusal("popgym/RepeatPreviousEasy", num_deck=2)
    assert "option of environment 'popgym/RepeatPreviousEasy' 'num_deck'" in message
    assert "did you mean 'num_decks'?" in message
    assert message.endswith("known: k, num_decks")


@quick
@given(st.text())
def test_no_other_option_is_taken(option):
    if option != "length":
        refusal("memory/TMaze", **{option: 3})


@quick
@given(st.integers())
def test_length_is_taken_in_its_range_only(length):
    if 1 <= length < 2**31 - 1:
        _, params = make_env("memory/TMaze", length=length)
        assert params.length == length
    else:
        message = refusal("memory/TMaze", length=length)
        assert "length" in message
        assert str(length) in message
        assert "expected" in message


@quick
@given(st.one_of(st.booleans(), st.text(), st.floats(), st.none(), st.lists(st.integers())))
def test_an_int_is_nothing_else(value):
    for name, option in (("memory/TMaze", "length"), ("popgym/RepeatPreviousEasy", "k")):
        message = refusal(name, **{option: value})
        assert repr(option) in message
        assert "expected int" in message
        assert type(value).__name__ in message


@quick
@given(st.one_of(st.floats(), st.integers(), st.integers(1, 9).map(np.float64)))
def test_noise_is_a_finite_number_of_at_least_zero(sigma):
    name = "popgym/NoisyPositionOnlyCartPoleEasy"
    if 0 <= sigma <= sys.float_info.max:
        _, params = make_env(name, noise_sigma=sigma)
        assert type(params.noise_sigma) is float
        assert params.noise_sigma == float(sigma)
    else:
        assert "noise_sigma" in refusal(name, noise_sigma=sigma)


@quick
@given(st.sampled_from([True, "0.1", None, (0.1,), 10**400, 1j]))
def test_a_float_is_a_real_number(value):
    assert "expected float" in refusal("popgym/NoisyPositionOnlyCartPoleEasy", noise_sigma=value)


@quick
@given(st.integers(-5, 300), st.integers(-1, 5))
def test_lag_must_leave_a_card_to_score(k, num_decks):
    if num_decks >= 1 and 1 <= k < 52 * num_decks:
        env, params = make_env("popgym/RepeatPreviousHard", k=k, num_decks=num_decks)
        assert dataclasses.asdict(env)["k"] == k  # pyright: ignore[reportArgumentType]
        assert params.max_steps_in_episode == 52 * num_decks - 1
    else:
        refusal("popgym/RepeatPreviousHard", k=k, num_decks=num_decks)


@pytest.mark.parametrize("name", ["popgym/PositionOnlyCartPoleEasy", "gymnax/CartPole-v1"])
def test_an_episode_lasts_at_least_one_step(name):
    make_env(name, max_steps_in_episode=1)
    assert "expected at least 1" in refusal(name, max_steps_in_episode=0)


def test_arrays_keep_type_and_shape():
    _, params = make_env("gymnax/Acrobot-v1", available_torque=[-2, 0, 2])
    assert params.available_torque.dtype == jnp.float32
    np.testing.assert_array_equal(params.available_torque, [-2, 0, 2])
    for wrong in ([1.0, 2.0], "torque", [[1.0], [2.0, 3.0]], [True, False, True], None):
        assert "expected float32 array" in refusal("gymnax/Acrobot-v1", available_torque=wrong)
    assert "expected int32 array" in refusal("gymnax/DiscountingChain-bsuite", reward_timestep=[0.5] * 5)


def test_bool_is_not_int():
    assert "expected bool" in refusal("gymnax/FrozenLake-misc", is_slippery=1)


def test_strings_and_sequences_are_told_apart():
    assert "expected str" in refusal("gymnax/FrozenLake-misc", map_name=4)
    assert "expected sequence" in refusal("gymnax/FrozenLake-misc", reward_schedule=1.0)


def test_a_missing_data_set_is_said_when_made(monkeypatch):
    def offline():
        raise OSError("no\nnetwork")

    monkeypatch.setattr(load_mnist, "load_mnist", offline)
    assert "gymnax/MNISTBandit-bsuite" in list_envs()
    message = refusal("gymnax/MNISTBandit-bsuite")
    assert message.endswith("cannot be made with no options: OSError no network")


def test_a_constructor_that_refuses_is_quoted():
    message = refusal("gymnax/MetaMaze-misc", maze_size=4)
    assert "'gymnax/MetaMaze-misc' cannot be made with maze_size=4: AssertionError" in message


def test_an_environment_may_refuse_in_its_own_words():
    def picky(size: int = 1):
        raise MemrlError(f"size is {size}, expected better")

    with pytest.raises(MemrlError, match=r"^size is 2, expected better$"):
        EnvironmentSpec(lambda: picky).make("picky", {"size": 2})


def test_every_gymnax_environment_is_listed():
    assert {f"gymnax/{i}" for i in gymnax.registered_envs} == set(list_envs()) - set(OWN)
