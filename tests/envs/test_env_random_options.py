"""Random play over random options: nothing leaves its space, no episode outlives its limit, and keys decide all."""

from typing import Any

import jax
import numpy as np
import pytest
from env_rollout import assert_in_space, play
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from memrl.envs import list_envs, make_env
from memrl.errors import MemrlError

NUM_STEPS = 60
few, length, share = st.integers(1, 6), st.integers(1, 50), st.floats(0, 1)
limit = {"max_steps_in_episode": length}
sigma = {"noise_sigma": st.floats(0, 10)}

# For each family: options that change shapes, each a program of its own, and those that do not, drawn at random.
FAMILIES: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "memory/TMaze": ([{}], {"length": length}),
    "memory/TMazeActive": ([{}], {"length": length}),
    "memory/KeyToDoor": ([{}, {"num_colours": 2}], {"length": length, "apple_probability": share}),
    "memory/Parity": ([{}, {"every_step": True}], {"length": length}),
    "memory/DelayedMatch": ([{}, {"num_symbols": 2}], {"length": length}),
    "memory/AssociativeRecall": ([{}, {"vocab_size": 12}], {"num_pairs": few, "num_queries": few}),
    "memory/Passkey": ([{}, {"key_length": 1, "place": "random"}], {"length": length}),
    "memory/SetDisjointness": ([{}, {"order": "long_first"}], {"short_size": few, "long_size": few}),
    "memory/Copy": ([{}, {"length": 1, "num_symbols": 2}], {"delay": length, "repeats": few}),
    "memory/MemoryLength": ([{}, {"num_bits": 3}], {"memory_length": length}),
    "memory/EvidenceAccumulation": ([{}], {"length": length, "reliability": st.floats(0.5, 1), "wait_cost": share}),
    "meta/CartPole": ([{}, {"features": 1, "permute_actions": True}], {"trials": few, "max_steps_in_trial": length}),
    "meta/BernoulliBandit": ([{}, {"num_arms": 1}], limit),
    "meta/GaussianBandit": ([{}], limit | sigma | {"mean_sigma": st.floats(0, 10)}),
    "meta/LinearBandit": ([{}, {"features": 1}], limit | sigma),
    "meta/DynamicalLinearBandit": ([{}, {"state_size": 1, "system_seed": 3}], limit | {"spectral_radius": share}),
    "popgym/AutoencodeEasy": ([{}], {}),
    "popgym/BattleshipEasy": ([{}, {"board_size": 3, "ship_sizes": (2,)}], {}),
    "popgym/ConcentrationHard": ([{}, {"num_decks": 2}], {}),
    "popgym/CountRecallEasy": ([{}, {"deck_type": "ranks"}], {}),
    "popgym/HigherLowerEasy": ([{}], {"num_decks": few}),
    "popgym/LabyrinthEscapeEasy": ([{}, {"size": 6}], limit),
    "popgym/LabyrinthExploreEasy": ([{"size": 6}], limit),
    "popgym/MineSweeperEasy": ([{}, {"board_size": 5, "num_mines": 22}], {}),
    "popgym/MultiarmedBanditEasy": ([{}, {"num_bandits": 1}], limit),
    "popgym/RepeatFirstEasy": ([{}], {"num_decks": few}),
    "popgym/RepeatPreviousEasy": ([{"k": 1}, {"k": 51}], {"num_decks": few}),
    "popgym/PositionOnlyCartPoleEasy": ([{}], limit),
    "popgym/VelocityOnlyCartPoleEasy": ([{}], limit),
    "popgym/NoisyPositionOnlyCartPoleEasy": ([{}], limit | sigma),
    "popgym/PositionOnlyPendulumEasy": ([{}], limit),
    "popgym/NoisyPositionOnlyPendulumEasy": ([{}], limit | sigma),
}
CASES = [
    pytest.param(name, shapes, marks=[pytest.mark.slow] if i else [], id=f"{name}-{shapes}")
    for name, (variants, _) in FAMILIES.items()
    for i, shapes in enumerate(variants)
]


def test_every_family_is_here():
    own = [name for name in list_envs() if name.startswith(("memory/", "meta/", "popgym/"))]
    assert {type(make_env(name)[0]) for name in own} == {type(make_env(name)[0]) for name in FAMILIES}


@pytest.mark.parametrize(("name", "shapes"), CASES)
def test_random_play(name, shapes):
    @settings(deadline=None, max_examples=5)
    @given(st.fixed_dictionaries(FAMILIES[name][1]), st.integers(0, 2**31 - 1))
    def plays_well(options, seed):
        try:
            env, params = make_env(name, **shapes, **options)
        except MemrlError:
            assume(False)
            raise
        played = play(env, params, seed, NUM_STEPS)
        space = env.observation_space(params)
        for observation in (played.first, played.observation, played.final):
            assert_in_space(space, observation)
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(observation))
        assert np.isfinite(played.reward).all()
        assert (played.length <= params.max_steps_in_episode).all()
        jax.tree.map(np.testing.assert_array_equal, played, play(env, params, seed, NUM_STEPS))

    plays_well()
