import dataclasses
import itertools
import os

import jax
import jax.numpy as jnp
import matplotlib.colors
import numpy as np
import PIL.Image
import pytest

from memrl.envs import list_envs, make_env
from memrl.envs.base import step_key
from memrl.envs.wrappers import unwrapped
from memrl.errors import MemrlError
from memrl.experiment import Experiment, assemble
from memrl.networks import NetworkConfig
from memrl.runner import RunOptions, load_saved, run
from memrl.runner.drawings import AGENT, drawing_of
from memrl.runner.play import RecordingOptions, frames, play_random, play_run
from memrl.runner.recording import Actor, Decision, Episode, random_actor, record, trained_actor
from memrl.runner.strips import MAX_ROWS, Row, numbers_of, rows_of
from memrl.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple

EXPERIMENT = Experiment(
    env="memory/TMaze",
    env_options={"length": 3},
    network=NetworkConfig(features=8, encoder_sizes=(), head_sizes=(), previous_action=True),
    agent=dataclasses.replace(Experiment(env="").agent, num_envs=2, num_steps=4, minibatches=1, epochs=1),
    total_steps=32,
    seeds=2,
    evaluation_episodes=1,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return run(EXPERIMENT, tmp_path_factory.mktemp("runs") / "tmaze", RunOptions(track=(), quiet=True))


def scripted(*actions: int) -> Actor:
    """Takes the given actions, with the probability 3/4 each, and says that the t-th observation is worth t."""

    def act(t, observation, reset, key):
        action = jnp.asarray(actions)[t]
        return t + 1, Decision(action, jnp.where(jnp.arange(4) == action, 3 / 4, 1 / 12), t.astype(jnp.float32))

    return Actor(lambda: np.int32(0), act)


def random_episode(name: str, max_steps: int, **options) -> Episode:
    env, params = make_env(name, **options)
    return record(env, params, random_actor(env, params), 0, max_steps)


def pictures(name: str, episode: Episode) -> list[np.ndarray]:
    drawing = drawing_of(episode.task, episode.params, name)
    return [np.asarray(frame.convert("RGB")).astype(int) for frame in frames(episode, drawing, name)]


def centre(picture: np.ndarray, color: str) -> np.ndarray:
    """Mean x and y of the pixels of a colour in the left part, where the environment is."""
    wanted = np.round(255 * np.array(matplotlib.colors.to_rgb(color)))
    found = np.argwhere(np.abs(picture[:, :520] - wanted).max(-1) <= 2)
    assert len(found) > 20
    return found.mean(0)[::-1]


def test_a_recording_is_what_the_environment_does():
    env, params = make_env("memory/TMaze", length=3)
    episode = record(env, params, scripted(0, 2, 0, 1), 5, 100)
    assert [int(s.position) for s in episode.states] == [0, 1, 0, 1, 1]
    assert [int(s.time) for s in episode.states] == [0, 1, 2, 3, 4]  # the last is not the next episode's first
    assert len({int(s.goal) for s in episode.states}) == 1
    np.testing.assert_allclose(episode.rewards, [0, -1 / 3, -1 / 3, 0], rtol=1e-6)
    np.testing.assert_allclose(episode.returns, [0, 0, -1 / 3, -2 / 3, -2 / 3], rtol=1e-6)
    np.testing.assert_array_equal(episode.actions, [0, 2, 0, 1])
    np.testing.assert_array_equal(episode.values, np.arange(4))
    assert episode.ended
    assert [int(np.argmax(o)) for o in episode.observations[1:]] == [2, 2, 2, 2]


def test_a_recording_stops_at_max_steps():
    episode = random_episode("memory/TMaze", 4, length=9)
    assert len(episode.actions) == len(episode.rewards) == 4
    assert len(episode.states) == len(episode.observations) == 5
    assert not episode.ended
    np.testing.assert_array_equal(episode.probabilities, np.full((4, 4), 0.25))
    assert episode.values is None


@pytest.mark.parametrize("name", ["popgym/NoisyPositionOnlyCartPoleEasy", "meta/CartPole", "popgym/AutoencodeEasy"])
def test_states_and_observations_belong_together(name):
    episode = random_episode(name, 300)
    assert episode.ended
    key = jax.random.fold_in(jax.random.key(0), 0x706C6179)
    t = len(episode.actions) - 1
    env_key = jax.random.split(jax.random.fold_in(key, t + 1))[1]
    task, action = episode.task, episode.actions[t]
    observation, state, reward, *_ = jax.jit(task.step_env)(  # type: ignore[attr-defined]
        step_key(env_key), episode.states[t], action, episode.params
    )
    for made, kept in ((observation, episode.observations[-1]), (state, episode.states[-1])):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), made, kept)
    np.testing.assert_allclose(reward, episode.rewards[t], rtol=1e-6)


def test_the_seed_decides_the_episode():
    one, same, other = (
        record(env, params, random_actor(env, params), seed, 20)
        for env, params in [make_env("popgym/RepeatFirstEasy")]
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one.actions, same.actions)
    np.testing.assert_array_equal(one.observations, same.observations)
    assert (one.actions != other.actions).any()
    assert (np.stack(one.observations) != np.stack(other.observations)).any()


@pytest.mark.parametrize("greedy", [True, False])
def test_probabilities_and_values_are_those_of_the_network(trained, greedy):
    saved = load_saved(trained)
    state = jax.tree.map(lambda x: x[0], saved.states)
    env, params, agent = saved.assembly
    episode = record(env, params, trained_actor(saved.assembly, state, greedy=greedy), 3, 50)
    # The whole sequence at once, where the recording went step by step.
    previous = np.zeros((4, 1, 4), np.float32)
    previous[np.arange(1, 4), 0, episode.actions[:-1]] = 1
    observations = {"observation": np.stack(episode.observations[:-1])[:, None], "previous_action": previous}
    network = agent.network(state)
    resets = jnp.arange(4)[:, None] == 0
    _, output = network.unroll(network.initial_state(1), agent.see(state, observations), resets)
    log_probs = np.stack([np.asarray(output.policy.log_prob(jnp.full((4, 1), a)))[:, 0] for a in range(4)], 1)
    assert episode.probabilities is not None
    assert episode.values is not None
    np.testing.assert_allclose(episode.probabilities, np.exp(log_probs), rtol=1e-5)
    np.testing.assert_allclose(episode.values, output.value[:, 0], rtol=1e-4, atol=1e-6)
    if greedy:
        np.testing.assert_array_equal(episode.actions, episode.probabilities.argmax(1))


def test_wrappers_are_taken_off():
    env, _, _ = assemble(EXPERIMENT)
    assert type(unwrapped(env)).__name__ == "TMaze"
    assert unwrapped(unwrapped(env)) == unwrapped(env)


def test_the_agent_moves_in_the_picture():
    env, params = make_env("memory/TMaze", length=3)
    episode = record(env, params, scripted(0, 0, 0, 1), 0, 10)
    first, second, third, junction, arm = (centre(p, AGENT) for p in pictures("memory/TMaze", episode))
    step = second - first
    assert step[0] > 30
    assert abs(step[1]) < 1
    np.testing.assert_allclose(third - second, step, atol=1)
    np.testing.assert_allclose(junction - third, step, atol=1)
    np.testing.assert_allclose(arm - junction, [0, -step[0]], atol=1)  # up, as far as right


def test_the_labyrinth_shows_the_grid_and_the_way():
    name = "popgym/LabyrinthEscapeEasy"
    env, params = make_env(name)
    row, column = random_episode(name, 1).states[0].position
    inward = 3 if row == 0 else 2 if row == 10 else 1 if column == 0 else 0
    episode = record(env, params, scripted(inward, inward ^ 1), 0, 2)
    positions = np.array([state.position for state in episode.states])
    np.testing.assert_array_equal(np.abs(np.diff(positions, axis=0)).sum(1), [1, 1])
    shown = pictures(name, episode)
    places = np.array([centre(picture, AGENT) for picture in shown])
    np.testing.assert_allclose(places[2], places[0], atol=1)
    moved = places[1] - places[0]
    side = np.abs(moved).max()
    assert side > 20
    np.testing.assert_allclose(moved / side, (positions[1] - positions[0])[::-1], atol=0.05)
    walls = (np.abs(shown[0][:, :520] - [0x3D, 0x45, 0x51]).max(-1) <= 4).sum() / side**2
    assert abs(walls - (episode.states[0].grid == 1).sum()) < 4  # the view's frame covers some of them


DRAWN = [
    "memory/Passkey", "memory/MemorySize", "meta/CartPole", "meta/BernoulliBandit",
    "popgym/LabyrinthExploreEasy", "popgym/VelocityOnlyCartPoleEasy", "popgym/PositionOnlyPendulumEasy",
    "popgym/ConcentrationHard", "popgym/AutoencodeEasy", "popgym/RepeatPreviousEasy", "popgym/HigherLowerEasy",
    "popgym/CountRecallEasy", "popgym/BattleshipEasy", "gymnax/CartPole-v1",
]  # fmt: skip


@pytest.mark.parametrize("name", DRAWN)
def test_frames_differ_where_states_do(name):
    episode = random_episode(name, 2)
    shown = pictures(name, episode)
    assert len(shown) == 3
    assert len({picture.shape for picture in shown}) == 1
    for before, after in itertools.pairwise(shown):
        assert (before[80:, :520] != after[80:, :520]).any()  # below the numbers, left of the probabilities


def test_all_environments_can_be_drawn_or_say_that_they_cannot():
    refused = []
    for name in list_envs():
        if name.startswith(("memory/", "meta/", "popgym/")):
            env, params = make_env(name)
            try:
                drawing_of(unwrapped(env), params, name)
            except MemrlError:
                refused.append(name)
    assert refused == ["meta/LinearBandit"]


@pytest.mark.parametrize(
    ("space", "value", "numbers"),
    [
        (Discrete(5), np.int32(3), [3]),
        (MultiDiscrete((2, 3)), np.array([1, 2]), [1, 2]),
        (Box(0, 1, (2, 2)), np.array([[0.5, 1], [0, 0.25]]), [0.5, 1, 0, 0.25]),
        (Tuple((Discrete(2), MultiDiscrete((2, 2)))), (np.int32(1), np.array([0, 1])), [1, 0, 1]),
        (Dict({"b": Discrete(9), "a": Box(0, 1, (1,))}), {"a": np.array([0.5]), "b": np.int32(7)}, [7, 0.5]),
    ],
)
def test_rows_of_a_strip(space, value, numbers):
    assert numbers_of(space, value) == numbers
    rows = rows_of("seen", space)
    assert rows is not None
    assert len(rows) == len(numbers)


def test_labels_of_rows_and_their_limit():
    assert rows_of("seen", MultiDiscrete((2, 2))) == [Row("seen"), Row("")]
    assert rows_of("seen", Dict({"a_b": Discrete(2)})) == [Row("a\nb")]
    assert rows_of("seen", Box(0, 1, (MAX_ROWS + 1,))) is None
    assert rows_of("seen", Tuple((Discrete(2), Box(0, 1, (8, 8))))) is None


def test_a_gif_has_a_frame_for_each_state(tmp_path):
    out = play_random("memory/TMaze", {"length": 2}, tmp_path / "a.gif", RecordingOptions(fps=4.0))
    with PIL.Image.open(out) as gif:
        assert gif.n_frames == 4  # type: ignore[attr-defined]
        assert gif.info["duration"] == 250
        gif.seek(3)
        assert gif.info["duration"] == 1500
    assert [p.name for p in tmp_path.iterdir()] == ["a.gif"]
    again = play_random("memory/TMaze", {"length": 2}, tmp_path / "b.gif", RecordingOptions(fps=4.0))
    assert again.read_bytes() == out.read_bytes()


def test_a_gif_of_a_run(trained):
    out = play_run(trained, None, None, RecordingOptions())
    assert out == trained / "episode.gif"
    with PIL.Image.open(out) as gif:
        assert gif.n_frames == 5  # type: ignore[attr-defined]
    before = out.read_bytes()
    with pytest.raises(MemrlError, match=r"episode\.gif exists"):
        play_run(trained, None, None, RecordingOptions(seed=4))
    assert out.read_bytes() == before
    play_run(trained, "memory/TMaze", None, RecordingOptions(sampled=True, max_steps=1), overwrite=True)
    assert out.read_bytes() != before
    with pytest.raises(MemrlError, match=r"env is memory/Copy, expected memory/TMaze"):
        play_run(trained, "memory/Copy", trained / "other.gif", RecordingOptions())


@pytest.mark.parametrize(
    ("name", "out", "expected"),
    [
        ("memory/TMase", "a.gif", "did you mean 'memory/TMaze'"),
        ("memory/TMaze", "a.png", r"a\.png, expected a name ending in \.gif"),
        ("memory/TMaze", "missing/a.gif", "missing is not a folder"),
        ("memory/TMaze", "taken.gif", r"taken\.gif exists"),
        ("memory/TMaze", "folder.gif", "is a folder, expected a file"),
        ("gymnax/Asterix-MinAtar", "a.gif", r"cannot be drawn.*Box \[10, 10, 4\]"),
    ],
)
def test_mistakes(tmp_path, name, out, expected):
    (tmp_path / "taken.gif").write_text("mine")
    (tmp_path / "folder.gif").mkdir()
    with pytest.raises(MemrlError, match=expected):
        play_random(name, {}, tmp_path / out, RecordingOptions())
    assert (tmp_path / "taken.gif").read_text() == "mine"
    assert {p.name for p in tmp_path.iterdir()} == {"taken.gif", "folder.gif"}


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(MemrlError, match="cannot be written to"):
        play_random("memory/TMaze", {}, tmp_path / "closed" / "a.gif", RecordingOptions())


@pytest.mark.parametrize(
    ("field", "value"), [("seed", -1), ("seed", 2**32), ("max_steps", 0), ("fps", 0.0), ("fps", 60.0)]
)
def test_options_out_of_range(field, value):
    with pytest.raises(MemrlError, match=rf"play: {field} is {value}, expected"):
        RecordingOptions(**{field: value})
