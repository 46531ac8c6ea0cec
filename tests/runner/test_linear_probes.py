"""Linear probes find what is linearly there, and only that."""

import numpy as np
import pytest

from memrl.runner.probes import Targets, one_hot_targets, probe

N_EPISODES, ROWS = 100, 6


def rng() -> np.random.Generator:
    return np.random.default_rng(1)


def episodes() -> np.ndarray:
    return np.repeat(np.arange(N_EPISODES), ROWS)


def numbers(values: np.ndarray) -> Targets:
    return Targets(values.reshape(len(values), -1), None)


@pytest.mark.parametrize("width", [8, 900])  # fewer features than rows, and more
def test_what_is_a_direction_of_the_features_is_read(width):
    draw = rng()
    labels = draw.integers(0, 4, N_EPISODES * ROWS)
    features = np.eye(4)[labels] @ draw.normal(size=(4, width)) + 7
    (found,) = probe(features.astype(np.float32), [one_hot_targets(labels)], episodes())
    assert found.score == 1
    assert found.error == 0
    assert abs(found.chance - 0.25) < 0.06


def test_what_is_not_in_the_features_is_guessed():
    draw = rng()
    labels = draw.choice(3, N_EPISODES * ROWS, p=(0.6, 0.3, 0.1))
    (found,) = probe(draw.normal(size=(len(labels), 5)), [one_hot_targets(labels)], episodes())
    assert found.chance == np.mean(labels == 0)
    assert abs(found.score - found.chance) < 3 * found.error
    assert 0.01 < found.error < 0.04  # of a mean of 600 draws: 0.02


def test_the_share_of_the_variance():
    draw = rng()
    x = draw.normal(size=(N_EPISODES * ROWS, 3))
    noise = draw.normal(size=len(x))
    for share in (0.5, 0.8):
        y = np.sqrt(share) * x[:, 1] + np.sqrt(1 - share) * noise
        (found,) = probe(x, [numbers(y)], episodes())
        assert abs(found.score - share) < 4 * found.error
        assert found.error < 0.05
        assert abs(found.chance) < 0.02


def test_an_episode_does_not_tell_of_itself():
    """Features that name the episode, and labels that stay the same in it: nothing of it is known of other episodes."""
    draw = rng()
    labels = np.repeat(draw.integers(0, 2, N_EPISODES), ROWS)
    features = np.repeat(draw.normal(size=(N_EPISODES, 200)), ROWS, 0)
    (found,) = probe(features, [one_hot_targets(labels)], episodes())
    assert abs(found.score - 0.5) < 4 * found.error
    assert found.error > 0.035  # 100 episodes, not 600 rows


def test_several_parts_count_alike():
    draw = rng()
    labels = draw.integers(0, 2, (N_EPISODES * ROWS, 2))
    known = np.eye(2)[labels[:, 0]]
    (both,) = probe(known, [one_hot_targets(labels)], episodes())
    assert abs(both.score - 0.75) < 4 * both.error
    y = np.stack([known[:, 0], 100 * draw.normal(size=len(known))], 1)
    (both,) = probe(known, [numbers(y)], episodes())
    assert abs(both.score - 0.5) < 0.03


def test_several_targets_are_told_as_one_alone():
    draw = rng()
    x, labels = draw.normal(size=(N_EPISODES * ROWS, 4)), draw.integers(0, 3, (2, N_EPISODES * ROWS))
    targets = [one_hot_targets(labels[0]), numbers(x[:, 0] ** 3), one_hot_targets(labels[1])]
    together = probe(x, targets, episodes())
    alone = [probe(x, [target], episodes())[0] for target in targets]
    np.testing.assert_allclose(together, alone, rtol=1e-9)


def test_without_features_or_variance():
    draw = rng()
    labels = draw.integers(0, 3, N_EPISODES * ROWS)
    for nothing in (np.zeros((len(labels), 0)), np.full((len(labels), 4), 3.0)):
        (found,) = probe(nothing, [one_hot_targets(labels)], episodes())
        assert found.score == found.chance
    (constant,) = probe(draw.normal(size=(len(labels), 4)), [numbers(np.ones(len(labels)))], episodes())
    assert np.isnan(constant.score)
    assert np.isnan(constant.chance)
    (one,) = probe(draw.normal(size=(len(labels), 4)), [one_hot_targets(np.full(len(labels), 9))], episodes())
    assert one.score == one.chance == 1


def test_too_few_episodes_say_nothing():
    (found,) = probe(rng().normal(size=(6, 4)), [one_hot_targets(np.arange(6) % 2)], np.zeros(6, int))
    assert np.isnan(found.score)
