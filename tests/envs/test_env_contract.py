"""Every registered environment keeps the contract: registering one tests it."""

import importlib.util

import jax
import numpy as np
import pytest
from env_rollout import Played, assert_in_space, assert_shaped_like_space, play

from memrl.envs import ENVIRONMENTS, env_options, list_envs, make_env

SKIPPED = {"gymnax/MNISTBandit-bsuite": "downloads its data set"}
SHORT = 12  # time limit, in steps, of environments that let it be set
SLOW = {"gymnax/Freeway-MinAtar", "gymnax/Seaquest-MinAtar", "gymnax/Asterix-MinAtar"}  # seconds to compile
WRONG_BOUNDS = {
    "gymnax/MemoryChain-bsuite": "the context is -1 or 1, the space starts at 0",
    "gymnax/MetaMaze-misc": "the observed reward is 10, the space ends at 1",
    "gymnax/GaussianBandit-misc": "the observed reward is Gaussian, the space is [0, 2]; time starts at -1",
}
OWN_LIMIT = ("popgym/Battleship", "popgym/Concentration", "popgym/MineSweeper")  # follows from the size of the board
OPTIONAL = {  # by package; one environment stands for its family
    "craftax": "craftax/Craftax-Classic-Symbolic-v1",
    "navix": "navix/Navix-DoorKey-5x5-v0",
    "xminigrid": "xland/MiniGrid-MemoryS8",
    "popgym_arcade": "arcade/BattleShipEasy",
    "brax": "brax/inverted_pendulum",
}
STATISTICS_OUTLIVE_EPISODES = {"gymnax/DeepSea-bsuite": ("total_bad_episodes", "denoised_return")}


def contract_envs():
    for name in list_envs():
        marks = [pytest.mark.skip(reason=SKIPPED[name])] if name in SKIPPED else []
        marks += [pytest.mark.slow] if name in SLOW or is_larger(name) else []
        yield pytest.param(name, marks=marks, id=name)
    for package, name in OPTIONAL.items():
        absent = importlib.util.find_spec(package) is None
        yield pytest.param(name, marks=pytest.mark.skipif(absent, reason=f"{package} is not installed"), id=name)


def is_larger(name: str) -> bool:
    """Whether it is one of POPGym's at another size than the Easy one."""
    return name.startswith("popgym/") and name.endswith(("Medium", "Hard"))


class Case:
    """One environment, made once, and one recording of random play."""

    def __init__(self, name: str):
        self.name = name
        self.limited = "max_steps_in_episode" in env_options(name)
        limit = {"max_steps_in_episode": SHORT} if self.limited else {}
        self.env, self.params = make_env(name, **limit)
        self.limit = int(self.params.max_steps_in_episode)
        self.played = self.play(seed=0)

    def play(self, seed: int) -> Played:
        # gymnax's programs compile twice as fast with this generator.
        prng = "unsafe_rbg" if self.name.startswith("gymnax/") else None
        return play(self.env, self.params, seed, num_steps=2 * self.limit + 5, prng=prng)


@pytest.fixture(scope="module", params=contract_envs())
def case(request):
    # gymnax's Swimmer adds arrays of different rank, and so do other suites.
    foreign = request.param.startswith("gymnax/") or request.param in OPTIONAL.values()
    with jax.numpy_rank_promotion("allow" if foreign else "raise"):
        yield Case(request.param)


def test_observations_stay_in_their_space(case):
    space = case.env.observation_space(case.params)
    check = assert_shaped_like_space if case.name in WRONG_BOUNDS else assert_in_space
    for observation in (case.played.first, case.played.observation, case.played.final):
        check(space, observation)


def test_actions_stay_in_their_space(case):
    assert_in_space(case.env.action_space(case.params), case.played.action)


def test_values_are_finite(case):
    played = case.played
    for leaf in jax.tree.leaves((played.first, played.observation, played.final, played.reward)):
        assert np.isfinite(leaf).all()


def test_rewards_are_float32_and_flags_bool(case):
    assert case.played.reward.dtype == np.float32
    assert case.played.terminated.dtype == case.played.truncated.dtype == bool


def test_state_keeps_its_types(case):
    key = jax.random.key(0)
    action = case.env.action_space(case.params).sample(key)
    observation, state = jax.eval_shape(case.env.reset, key, case.params)
    stepped = jax.eval_shape(case.env.step, key, state, action, case.params)
    assert types((observation, state)) == types(stepped[:2])
    assert not any(leaf.weak_type for leaf in jax.tree.leaves((observation, state, stepped[:5])))
    assert types(stepped[5]["final_observation"]) == types(observation)


def types(tree):
    leaves, structure = jax.tree.flatten(tree)
    return [(leaf.shape, str(leaf.dtype)) for leaf in leaves], structure


def test_episodes_end_at_the_limit(case):
    assert case.played.done.any(axis=0).all()
    assert (case.played.length <= case.limit).all()
    assert case.played.done[case.played.length == case.limit].all()


def test_only_a_time_limit_truncates(case):
    at_limit = case.played.length == case.limit
    if case.name.startswith(OWN_LIMIT):
        assert not case.played.truncated[~at_limit].any()
        return
    expected = at_limit if case.limited else np.zeros_like(at_limit)
    np.testing.assert_array_equal(case.played.truncated, expected)


def test_final_observation_is_what_the_step_showed(case):
    assert_trees_close(case.played.final, case.played.raw)


def test_between_ends_the_observation_is_the_final_one(case):
    running = ~case.played.done
    assert_trees_close(
        jax.tree.map(lambda x: x[running], case.played.observation),
        jax.tree.map(lambda x: x[running], case.played.final),
    )


def test_an_end_starts_a_fresh_episode(case):
    played, done = case.played, case.played.done
    fresh_observation, fresh_state = played.fresh
    state = played.state
    for field in STATISTICS_OUTLIVE_EPISODES.get(case.name, ()):
        state, fresh_state = (s.replace(**{field: np.zeros(done.shape)}) for s in (state, fresh_state))
    assert_trees_close(
        jax.tree.map(lambda x: x[done], (played.observation, state)),
        jax.tree.map(lambda x: x[done], (fresh_observation, fresh_state)),
    )


def assert_trees_close(left, right):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), left, right)


def test_same_key_same_episode(case):
    again = case.play(seed=0)
    jax.tree.map(np.testing.assert_array_equal, case.played, again)


def test_every_name_has_a_family():
    assert all(name.count("/") == 1 for name in ENVIRONMENTS)


@pytest.mark.parametrize("name", [n for n in list_envs() if not n.startswith("gymnax/")])
def test_equal_environments_share_one_program(name):
    (one, _), (two, _) = make_env(name), make_env(name)
    assert one is not two
    assert one == two
    assert hash(one) == hash(two)
