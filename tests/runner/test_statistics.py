"""Statistics against numbers worked out by hand, and against rliable where it is installed."""

import numpy as np
import pytest

from memrl.errors import MemrlError
from memrl.runner.statistics import (
    AGGREGATES,
    estimate,
    interquartile_mean,
    mean,
    mean_over_runs,
    median,
    mmer,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
)

# 4 runs on 2 tasks.
SCORES = np.array([[0.0, 0.5], [0.2, 0.6], [0.4, 0.9], [0.8, 1.2]])


def test_aggregates_by_hand():
    # Sorted: 0 .2 | .4 .5 .6 .8 | .9 1.2; means of tasks .35 and .8; 1.2 counts as 1 in the gap.
    assert interquartile_mean(SCORES) == pytest.approx((0.4 + 0.5 + 0.6 + 0.8) / 4)
    assert median(SCORES) == pytest.approx((0.35 + 0.8) / 2)
    assert median(np.concatenate([SCORES, SCORES[:, :1] - 5], axis=1)) == pytest.approx(0.35)
    assert mean(SCORES) == pytest.approx((0.35 + 0.8) / 2)
    assert optimality_gap(SCORES) == pytest.approx(1 - (1.4 + 0.5 + 0.6 + 0.9 + 1.0) / 8)


def test_trimming_rounds_down():
    # 5 scores: a quarter of them is one at either end.
    assert interquartile_mean(np.array([[-9.0], [1.0], [2.0], [6.0], [99.0]])) == pytest.approx(3.0)
    assert interquartile_mean(np.array([[1.0], [2.0], [6.0]])) == pytest.approx(3.0)


def test_leading_axes_are_times():
    curve = np.stack([SCORES, SCORES + 1])
    for statistic in AGGREGATES.values():
        np.testing.assert_allclose(statistic(curve), [statistic(SCORES), statistic(SCORES + 1)])
    result = estimate(interquartile_mean, curve, repetitions=100)
    assert result.value.shape == result.low.shape == result.high.shape == (2,)
    np.testing.assert_allclose(result.low[1] - result.low[0], 1.0)  # drawn together


def test_probability_of_improvement_by_hand():
    # Task 1: 1 > 0, 1 > .5, 1 = 1 -> 2.5 of 3; task 2: nothing beats.
    first, second = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0], [0.5, 1.0], [1.0, 1.0]])
    assert probability_of_improvement(first, second).value == pytest.approx((2.5 / 3 + 0) / 2)
    assert probability_of_improvement(second, first).value == pytest.approx(1 - (2.5 / 3 + 0) / 2)
    result = probability_of_improvement(SCORES, SCORES + 10)
    assert tuple(map(float, result)) == (0.0, 0.0, 0.0)


def test_performance_profile_by_hand():
    thresholds = np.array([-0.1, 0.2, 0.55, 1.2])
    result = performance_profile(SCORES, thresholds)
    np.testing.assert_allclose(result.value, [1, 6 / 8, 4 / 8, 0])  # strictly above
    assert (result.low <= result.value).all()
    assert (result.value <= result.high).all()
    assert result.low[2] < 0.5 < result.high[2]


def test_runs_are_drawn_within_their_task():
    # Tasks far apart, each without spread: nothing to be unsure of, unless runs change tasks.
    scores = np.tile([[0.0, 100.0]], (5, 1))
    for statistic in AGGREGATES.values():
        value, low, high = estimate(statistic, scores, repetitions=50)
        assert value == low == high


def test_tasks_are_drawn_apart():
    # Runs drawn alike for both tasks would make every mean one half.
    scores = np.array([[0.0, 1.0], [1.0, 0.0]])
    value, low, high = estimate(mean, scores, repetitions=500)
    assert (float(low), float(value), float(high)) == (0.0, 0.5, 1.0)
    beaten = probability_of_improvement(scores, np.full((1, 2), 0.5), repetitions=500)
    assert tuple(map(float, beaten)) == (0.5, 0.0, 1.0)
    profile = performance_profile(scores, np.array([0.5]), repetitions=500)
    assert np.array(profile).ravel().tolist() == [0.5, 0.0, 1.0]


def test_intervals_have_the_right_width():
    # The mean of 50 normal draws: +-1.96 standard errors.
    scores = np.random.default_rng(0).normal(size=(50, 1))
    error = scores.std() / np.sqrt(50)
    value, low, high = estimate(mean, scores, repetitions=20_000)
    assert low == pytest.approx(value - 1.96 * error, abs=0.06 * error)
    assert high == pytest.approx(value + 1.96 * error, abs=0.06 * error)
    _, narrow, _ = estimate(mean, scores, repetitions=20_000, confidence=0.68)
    assert narrow == pytest.approx(value - 0.994 * error, abs=0.05 * error)
    drawn = mean_over_runs(scores.T, repetitions=20_000)
    np.testing.assert_allclose([drawn.low[0], drawn.high[0]], [low, high], atol=0.06 * error)


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch):
    whole = estimate(mean, SCORES, repetitions=4000)
    monkeypatch.setattr("memrl.runner.statistics._BLOCK", 100)
    parts = estimate(mean, SCORES, repetitions=4000)
    np.testing.assert_allclose(whole, parts, atol=0.02)


def test_means_over_runs_leave_gaps_out():
    nan = np.nan
    result = mean_over_runs(np.array([[1.0, 3.0], [nan, 5.0], [nan, nan]]), repetitions=200)
    np.testing.assert_allclose(result.value, [2, 5, nan])
    np.testing.assert_allclose(result.low, [1, 5, nan])
    np.testing.assert_allclose(result.high, [3, 5, nan])


def test_mmer_is_the_best_mean_of_training():
    nan = np.nan
    np.testing.assert_allclose(mmer(np.array([[nan, 0.0, nan], [-3.0, 2.0, nan], [-4.0, 1.0, nan]])), [-3, 2, nan])


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: estimate(mean, np.zeros(3)), "shape (3,)"),
        (lambda: estimate(mean, np.zeros((0, 2))), "shape (0, 2)"),
        (lambda: estimate(mean, np.full((2, 2), np.nan)), "finite"),
        (lambda: estimate(mean, SCORES, confidence=95.0), "confidence is 95.0"),
        (lambda: probability_of_improvement(SCORES, SCORES[:, :1]), "2 and 1 tasks"),
    ],
)
def test_mistakes(call, expected):
    with pytest.raises(MemrlError) as error:
        call()
    assert expected in str(error.value)


class TestRliable:
    """Equality with rliable 1.2.0; it asks for arch before 8, and so for pandas before 3."""

    rng = np.random.default_rng(1)
    first = rng.uniform(-0.2, 1.3, (7, 5))
    second = np.round(rng.uniform(-0.2, 1.3, (4, 5)), 1)

    @pytest.fixture(autouse=True)
    def rliable(self):
        try:
            from rliable import library, metrics
        except Exception as error:  # as arch fails with pandas 3
            pytest.skip(f'rliable cannot be imported ({type(error).__name__}): pip install -e ".[rliable]"')
        self.metrics, self.library = metrics, library

    def test_values(self):
        ours = {name: float(statistic(self.first)) for name, statistic in AGGREGATES.items()}
        theirs = {
            "interquartile mean": self.metrics.aggregate_iqm(self.first),
            "median": self.metrics.aggregate_median(self.first),
            "mean": self.metrics.aggregate_mean(self.first),
            "optimality gap": self.metrics.aggregate_optimality_gap(self.first),
        }
        assert ours == pytest.approx(theirs, abs=1e-12)
        second = np.concatenate([self.second, self.first[:1]])  # with a tie
        for x, y in ((self.first, second), (second, self.first)):
            assert probability_of_improvement(x, y).value == pytest.approx(
                self.metrics.probability_of_improvement(x, y), abs=1e-12
            )

    @pytest.mark.filterwarnings("ignore")
    def test_intervals(self):
        repetitions = 4000

        def theirs(function, scores):
            value, interval = self.library.get_interval_estimates(
                {"x": scores},
                lambda *x: np.atleast_1d(function(*x)),
                reps=repetitions,
                random_state=np.random.RandomState(0),
            )
            return np.concatenate([np.atleast_1d(value["x"])[None], interval["x"]])

        for statistic, function in (
            (interquartile_mean, self.metrics.aggregate_iqm),
            (median, self.metrics.aggregate_median),
            (mean, self.metrics.aggregate_mean),
            (optimality_gap, self.metrics.aggregate_optimality_gap),
        ):
            ours = estimate(statistic, self.first, repetitions=repetitions)
            np.testing.assert_allclose(np.array(ours), theirs(function, self.first)[:, 0], atol=0.012)
        ours = probability_of_improvement(self.first, self.second, repetitions=repetitions)
        expected = theirs(self.metrics.probability_of_improvement, (self.first, self.second))
        np.testing.assert_allclose(np.array(ours), expected[:, 0], atol=0.012)

    @pytest.mark.filterwarnings("ignore")
    def test_profiles(self):
        thresholds = np.linspace(0, 1, 6)
        values, intervals = self.library.create_performance_profile(
            {"x": self.first}, thresholds, reps=4000, use_score_distribution=True
        )
        ours = performance_profile(self.first, thresholds, repetitions=4000)
        np.testing.assert_allclose(ours.value, values["x"])
        np.testing.assert_allclose([ours.low, ours.high], intervals["x"], atol=0.03)
