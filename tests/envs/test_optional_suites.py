"""Environments of optional packages: an agent trains on each. test_env_contract.py says that they keep the contract."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memrl import Experiment, NetworkConfig, PPOConfig, make_train
from memrl.envs import make_env
from memrl.errors import MemrlError

SUITES = [
    pytest.param("craftax", "craftax/Craftax-Classic-Symbolic-v1", {}, id="craftax-classic"),
    pytest.param("craftax", "craftax/Craftax-Symbolic-v1", {}, id="craftax", marks=pytest.mark.slow),
    pytest.param("navix", "navix/Navix-DoorKey-5x5-v0", {"view": "symbolic_first_person"}, id="navix"),
    pytest.param("xminigrid", "xland/MiniGrid-MemoryS8", {}, id="xland"),
    pytest.param("popgym_arcade", "arcade/NavigatorEasy", {}, id="arcade"),
    pytest.param("brax", "brax/inverted_pendulum", {"observe": "position", "backend": "spring"}, id="brax"),
]


@pytest.fixture(autouse=True)
def _ranks_may_differ():
    with jax.numpy_rank_promotion("allow"):  # inside these packages they do
        yield


@pytest.mark.parametrize(("package", "name", "options"), SUITES)
def test_ppo_trains(package, name, options):
    pytest.importorskip(package, reason=f"{package} is not installed")
    run = Experiment(
        env=name,
        env_options={"max_steps_in_episode": 5, **options},
        network=NetworkConfig(features=8, encoder_sizes=(), head_sizes=()),
        agent=PPOConfig(num_envs=4, num_steps=8, minibatches=2, epochs=1),
        total_steps=64,
    )
    result = jax.jit(make_train(run))(jax.random.key(0))
    metrics = result.metrics
    assert metrics["episode_return"].shape == (2,)
    assert (metrics["episodes"] >= 4).all()
    assert (metrics["episode_length"] <= 5).all()
    assert (metrics["nonfinite_steps"] == 0).all()


@pytest.mark.parametrize(
    ("package", "name", "options", "expected"),
    [
        ("craftax", "craftax/Craftax-Symbolic-v2", {}, "did you mean 'craftax/Craftax-Symbolic-v1'?"),
        ("craftax", "craftax/Craftax-Symbolic-v1", {"max_steps_in_episode": 0}, "is 0, expected at least 1"),
        ("navix", "navix/Navix-DoorKey-5x5-v1", {}, "did you mean 'navix/Navix-DoorKey-"),
        ("navix", "navix/Navix-DoorKey-5x5-v0", {"view": "all"}, "view of Navix-DoorKey-5x5-v0 is 'all', expected one"),
        ("navix", "navix/Navix-DoorKey-5x5-v0", {"max_steps_in_episode": 0}, "is 0, expected at least 1"),
        ("xminigrid", "xland/MiniGrid-MemoryS9", {}, "did you mean 'xland/MiniGrid-MemoryS"),
        ("xminigrid", "xland/MiniGrid-MemoryS8", {"view_size": 4}, "view_size of MiniGrid-MemoryS8 is 4, expected an"),
        ("xminigrid", "xland/MiniGrid-MemoryS8", {"max_steps_in_episode": 0}, "is 0, expected at least 1"),
        ("xminigrid", "xland/XLand-MiniGrid-R1-9x9", {"benchmark": "trivial-2k"}, "expected a file or one of trivial-"),
        ("popgym_arcade", "arcade/CartPole", {}, "did you mean 'arcade/CartPole"),
        ("popgym_arcade", "arcade/CartPoleEasy", {"obs_size": 84}, "obs_size of CartPoleEasy is 84, expected 128 or"),
        ("popgym_arcade", "arcade/CartPoleEasy", {"max_steps_in_episode": 0}, "is 0, expected at least 1"),
        ("brax", "brax/ants", {}, "did you mean 'brax/ant'?"),
        ("brax", "brax/ant", {"observe": "none"}, "observe of ant is 'none', expected one of all, position, velocity"),
        ("brax", "brax/ant", {"backend": "mujoco"}, "backend of ant is 'mujoco', expected one of generalized, mjx"),
        ("brax", "brax/ant", {"max_steps_in_episode": 0}, "is 0, expected at least 1"),
    ],
)
def test_refusals(package, name, options, expected):
    pytest.importorskip(package, reason=f"{package} is not installed")
    with pytest.raises(MemrlError) as caught:
        make_env(name, **options)
    assert expected in str(caught.value)


def test_craftax_options_reach_the_game():
    pytest.importorskip("craftax", reason="craftax is not installed")
    name = "craftax/Craftax-Classic-Symbolic-v1"
    (plain, _), (changed, _), (same, _) = make_env(name), make_env(name, cow_health=9), make_env(name, cow_health=3)
    assert plain == same
    assert plain != changed
    assert changed._unlimited.cow_health == 9  # pyright: ignore[reportAttributeAccessIssue]


def played(env, params, copies: int, steps: int):
    """Rewards, ends and cuts [copies, steps] of random play."""

    def step(state, key):
        action = env.action_space(params).sample(key)
        _, state, reward, terminated, truncated, _ = env.step(key, state, action, params)
        return state, (reward, terminated, truncated)

    def play(key):
        return jax.lax.scan(step, env.reset(key, params)[1], jax.random.split(key, steps))[1]

    return jax.jit(jax.vmap(play))(jax.random.split(jax.random.key(0), copies))


def test_xland_ends_where_an_object_is_chosen():
    pytest.importorskip("xminigrid", reason="xminigrid is not installed")
    reward, terminated, truncated = played(*make_env("xland/MiniGrid-MemoryS8"), copies=16, steps=1000)
    assert terminated.any()
    assert truncated.any()
    assert not (terminated & truncated).any()
    np.testing.assert_array_equal(reward[~terminated], jnp.zeros(int((~terminated).sum())))
    assert (reward >= 0).all()
    assert (reward > 0).any()


def test_xland_draws_rules_for_every_episode(tmp_path):
    pytest.importorskip("xminigrid", reason="xminigrid is not installed")
    from xminigrid.benchmarks import save_bz2_pickle  # pyright: ignore[reportMissingImports]
    from xminigrid.core.constants import TILES_REGISTRY, Colors, Tiles  # pyright: ignore[reportMissingImports]
    from xminigrid.core.goals import AgentNearGoal  # pyright: ignore[reportMissingImports]
    from xminigrid.core.rules import EmptyRule  # pyright: ignore[reportMissingImports]

    balls = [TILES_REGISTRY[Tiles.BALL, color] for color in (Colors.RED, Colors.BLUE)]
    rules = {
        "goals": jnp.stack([AgentNearGoal(tile=ball).encode() for ball in balls]),
        "rules": jnp.stack([EmptyRule().encode()[None]] * 2),
        "init_tiles": jnp.stack([jnp.stack(balls)] * 2),
        "num_rules": jnp.zeros(2, jnp.int32),
    }
    save_bz2_pickle(rules, str(tmp_path / "balls"))
    env, params = make_env("xland/XLand-MiniGrid-R1-9x9", benchmark=str(tmp_path / "balls"))
    _, timesteps = jax.vmap(env.reset, in_axes=(0, None))(jax.random.split(jax.random.key(0), 64), params)
    goals = timesteps.state.goal_encoding  # pyright: ignore[reportAttributeAccessIssue]
    of_the_first = (goals == rules["goals"][0]).all(1)
    assert 16 <= of_the_first.sum() <= 48
    assert ((goals == rules["goals"][1]).all(1) == ~of_the_first).all()
    reward, terminated, _ = played(env, params, copies=8, steps=300)
    assert terminated.any()
    np.testing.assert_array_equal(reward > 0, terminated)


def test_xland_says_which_file_is_no_benchmark(tmp_path):
    pytest.importorskip("xminigrid", reason="xminigrid is not installed")
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(MemrlError, match="cannot be read"):
        make_env("xland/XLand-MiniGrid-R1-9x9", benchmark=str(tmp_path / "empty"))


@pytest.mark.parametrize("game", ["CartPole", "BattleShip", "CountRecall", "AutoEncode", "MineSweeper", "Breakout"])
def test_arcade_cuts_at_the_limit_alone(game):
    pytest.importorskip("popgym_arcade", reason="popgym_arcade is not installed")
    name = f"arcade/{game}Easy"
    limit = 7
    reward, terminated, truncated = played(*make_env(name, max_steps_in_episode=limit), copies=8, steps=3 * limit)
    done = np.asarray(terminated | truncated)
    for copy in range(8):
        ends = np.flatnonzero(done[copy])
        lengths = np.diff(ends, prepend=-1)
        assert (lengths <= limit).all()
        np.testing.assert_array_equal(truncated[copy][ends], lengths == limit)
    assert truncated.any()
    assert np.isfinite(reward).all()


def test_arcade_cartpole_pays_as_published():
    pytest.importorskip("popgym_arcade", reason="popgym_arcade is not installed")
    for name, limit in (("arcade/CartPoleEasy", 200), ("arcade/CartPoleMedium", 400)):
        reward, terminated, truncated = played(*make_env(name), copies=2, steps=50)
        np.testing.assert_array_equal(reward, np.where(terminated, 0, np.float32(1 / limit)))
        assert terminated.any()
        assert not truncated.any()


@pytest.mark.parametrize("name", ["ant", "halfcheetah", "hopper", "walker2d", "inverted_pendulum", "reacher", "pusher"])
def test_brax_hides_what_it_is_told_to(name):
    """Two starts that differ in joint velocities alone differ in the velocities that are seen, and nowhere else."""
    pytest.importorskip("brax", reason="brax is not installed")
    seen = {}
    for observe in ("all", "position", "velocity"):
        env: Any
        env, params = make_env(f"brax/{name}", observe=observe, backend="spring")
        init, still = env._env.pipeline_init, jnp.zeros(env._env.sys.qd_size())
        shown = []
        for velocity in (still, still + 1):
            env._env.pipeline_init = lambda q, qd, v=velocity, init=init: init(q, v)
            shown.append(jax.jit(lambda key, e=env, p=params: e.reset_env(key, p)[0])(jax.random.key(0)))
        assert env.observation_space(params).shape == shown[0].shape
        seen[observe] = np.asarray(shown[0]) != np.asarray(shown[1])
    assert not seen["position"].any()
    assert seen["velocity"].any()
    assert seen["all"].sum() == seen["velocity"].sum()
    assert len(seen["all"]) == len(seen["position"]) + len(seen["velocity"])


def test_brax_hopper_falls_and_is_cut():
    pytest.importorskip("brax", reason="brax is not installed")
    env, params = make_env("brax/hopper", backend="spring", max_steps_in_episode=30)
    _, terminated, truncated = played(env, params, copies=8, steps=100)
    assert terminated.any()
    assert truncated.any()
