"""Episodes of a rollout and how they compare: on literal numbers, and against plain loops."""

import jax.numpy as jnp
import numpy as np
import pytest

from memrl.agents.attempts import (
    at_steps,
    differ,
    diversity_factors,
    find_attempts,
    in_groups,
    relative,
    returns_to_go,
    same_step,
    serial_factors,
    total,
    whole_groups,
)

# Two environments, five steps: episodes of 2, 2 and 1 steps, the last one cut; and of 3 and 2 steps.
DONE = jnp.array([[0, 1, 0, 1, 0], [0, 0, 1, 0, 1]], bool).T
RESET = jnp.concatenate([jnp.ones((1, 2), bool), DONE[:-1]])
ATTEMPTS = find_attempts(RESET, DONE)
REWARD = jnp.array([[1, 2, 3, 4, 5], [10, 20, 30, 40, 50]], jnp.float32).T


def test_episodes_of_a_rollout():
    np.testing.assert_array_equal(ATTEMPTS.episode.T, [[0, 0, 1, 1, 2], [0, 0, 0, 1, 1]])
    np.testing.assert_array_equal(ATTEMPTS.time.T, [[0, 1, 0, 1, 0], [0, 1, 2, 0, 1]])
    np.testing.assert_array_equal(ATTEMPTS.length.T, [[2, 2, 1, 0, 0], [3, 2, 0, 0, 0]])
    np.testing.assert_array_equal(ATTEMPTS.start.T[:, :2], [[0, 2], [0, 3]])
    assert ATTEMPTS.start[2, 0] == 4
    np.testing.assert_array_equal(ATTEMPTS.finished.T, [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0]])


def test_totals_of_episodes():
    totals = total(ATTEMPTS.episode, REWARD)
    np.testing.assert_array_equal(totals.T, [[3, 7, 5, 0, 0], [60, 90, 0, 0, 0]])
    np.testing.assert_array_equal(at_steps(ATTEMPTS, totals).T, [[3, 3, 7, 7, 5], [60, 60, 60, 90, 90]])


def test_returns_to_go():
    np.testing.assert_array_equal(returns_to_go(REWARD, DONE, 0.5).T, [[2, 2, 5, 4, 5], [27.5, 35, 30, 65, 50]])


def test_episodes_that_the_whole_group_finished():
    finished = jnp.array([[1, 1, 1, 1], [1, 0, 1, 1], [0, 0, 0, 1]], bool)
    attempts = ATTEMPTS._replace(finished=finished)
    np.testing.assert_array_equal(whole_groups(attempts, 2), [[1, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]])
    np.testing.assert_array_equal(whole_groups(attempts, 4), [[1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]])


def test_the_same_step_of_the_group():
    """Step by step, over random ends: whoever has taken step k of episode n."""
    rng = np.random.default_rng(0)
    T, B, G = 12, 6, 3
    done = rng.random((T, B)) < 0.4
    reset = np.concatenate([np.ones((1, B), bool), done[:-1]])
    attempts = find_attempts(jnp.array(reset), jnp.array(done))
    x = rng.standard_normal((T, B)).astype(np.float32)
    values, there = same_step(attempts, jnp.array(x), G)
    place = {}
    for b in range(B):
        n, k = -1, 0
        for t in range(T):
            n, k = (n + 1, 0) if reset[t, b] else (n, k + 1)
            place[b, n, k] = t
    for (b, n, k), t in place.items():
        for i in range(G):
            peer = b // G * G + i
            assert there[t, b, i] == ((peer, n, k) in place)
            assert values[t, b, i] == (x[place[peer, n, k], peer] if (peer, n, k) in place else 0)
    assert 0.2 < there.mean() < 0.9


# ---- advantages


def compare(scores, baseline, count=None, *, scale):
    """Of a row of scores, compared with each other."""
    scores = jnp.array(scores, jnp.float32)
    count = jnp.ones_like(scores, bool) if count is None else jnp.array(count, bool)
    others, count = (jnp.broadcast_to(x[None], (len(scores), len(scores))) for x in (scores, count))
    return relative(scores, others, count, baseline, scale=scale)


@pytest.mark.parametrize(
    ("scores", "baseline", "scale", "expected"),
    [
        ([3, 1], "group", True, [1, -1]),
        ([3, 1], "group", False, [1, -1]),
        ([3, 1], "leave_one_out", False, [2, -2]),  # 3 - 1, 1 - 3
        ([3, 1], "none", False, [3, 1]),
        ([0, 0, 0, 1], "group", True, [-(3**-0.5), -(3**-0.5), -(3**-0.5), 3**0.5]),  # mean 1/4, deviation sqrt(3)/4
        ([1, 2, 6], "group", False, [-2, -1, 3]),
        ([1, 2, 6], "leave_one_out", False, [-3, -1.5, 4.5]),  # 1 - 4, 2 - 3.5, 6 - 1.5
    ],
)
def test_advantages(scores, baseline, scale, expected):
    np.testing.assert_allclose(compare(scores, baseline, scale=scale), expected, rtol=1e-5)


@pytest.mark.parametrize("baseline", ["group", "leave_one_out"])
@pytest.mark.parametrize("scale", [True, False])
def test_equal_scores_have_no_advantage(baseline, scale):
    """Exactly, although the mean of seven times 0.1 in float32 is another number."""
    assert not compare([0.1] * 7, baseline, scale=scale).any()


def test_whether_scores_differ():
    counts = jnp.array([True, True, False])
    assert not differ(jnp.array([0.1, 0.1, 7.0]), counts)
    assert differ(jnp.array([0.1, 0.2, 0.1]), counts)


def test_what_does_not_count_is_not_compared_with():
    advantage = compare([3, 1, 100], "group", [1, 1, 0], scale=True)
    np.testing.assert_allclose(advantage[:2], [1, -1], rtol=1e-5)
    left_out = compare([3, 1, 100], "leave_one_out", [1, 1, 0], scale=False)
    np.testing.assert_allclose(left_out[:2], [2, -2], rtol=1e-5)


def test_groups_are_side_by_side():
    np.testing.assert_array_equal(in_groups(jnp.arange(6)[None], 3), [[[0, 1, 2], [3, 4, 5]]])


# ---- variants


def test_serial_factors():
    """By hand: at 2 wrong, at 4 right (1), at 7 right, twice but alike (1/2), at 9 right (1/4), at 12 wrong."""
    length = jnp.array([9, 2, 7, 4, 7, 12])
    right = jnp.array([1, 0, 1, 1, 1, 0], bool)
    np.testing.assert_allclose(serial_factors(right, length, 0.5), [0.25, 1, 0.5, 1, 0.5, 0.125])
    np.testing.assert_allclose(serial_factors(right[None], length[None], 0.1)[0, :3], [0.01, 1, 0.1], rtol=1e-6)


def test_who_answers_at_the_same_time_may_answer_differently():
    """At 3 right, wrong, right: later answers come after one right answer, not two, nor two thirds of one."""
    length = jnp.array([3, 3, 3, 5, 6])
    right = jnp.array([1, 0, 1, 1, 1], bool)
    np.testing.assert_allclose(serial_factors(right, length, 0.5), [1, 1, 1, 0.5, 0.25])


def test_diversity_factors():
    """Three of four alike, one rare: by hand at the start, halfway and at the end of the run."""
    mode, count = jnp.array([2, 2, 0, 2]), jnp.ones(4, bool)
    common, rare = 4 / 3, 4.0
    np.testing.assert_allclose(diversity_factors(mode, count, 0.0), [common, common, rare, common], rtol=1e-6)
    # alpha = G/F (F/G + (1 - F/G) / 2): 4/3 (3/4 + 1/8) = 7/6 and 4 (1/4 + 3/8) = 5/2
    np.testing.assert_allclose(diversity_factors(mode, count, 0.5), [7 / 6, 7 / 6, 2.5, 7 / 6], rtol=1e-6)
    np.testing.assert_allclose(diversity_factors(mode, count, 1.0), [1, 1, 1, 1], rtol=1e-6)


def test_diversity_is_that_of_the_attempts_that_count():
    mode, count = jnp.array([2, 2, 0, 2, 0, 0]), jnp.array([1, 1, 1, 1, 0, 0], bool)
    np.testing.assert_allclose(diversity_factors(mode, count, 0.0), [4 / 3, 4 / 3, 4, 4 / 3, 1, 1], rtol=1e-6)
    assert (diversity_factors(mode, count & False, 0.0) == 1).all()
