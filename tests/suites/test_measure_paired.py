"""Paired drops against published tables and a maximised likelihood."""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from suites.measure.paired import paired_interval, tango_interval, weighted_interval


@pytest.mark.parametrize(
    ("lost", "gained", "n", "low", "high", "digits"),
    [
        # Fagerland, Lydersen & Laake (2014): airway hyper-responsiveness, n = 21.
        (1, 7, 21, -0.517, -0.026, 3),
        # The same authors' book (2017), chapter 8: complete response, n = 161.
        (6, 16, 161, -0.1240, -0.0054, 4),
    ],
)
def test_tango_interval_agrees_with_published_examples(lost, gained, n, low, high, digits):
    found = tango_interval(lost, gained, n, 0.95)
    assert tuple(round(end, digits) for end in found) == (low, high)


@pytest.mark.parametrize("n", [10, 50, 3200])
def test_tango_interval_without_discordant_pairs_has_its_closed_form(n):
    z2 = stats.norm.ppf(0.975) ** 2
    low, high = tango_interval(0, 0, n, 0.95)
    assert high == pytest.approx(z2 / (n + z2), rel=1e-6)
    assert low == pytest.approx(-high)


@pytest.mark.parametrize(("lost", "gained", "n"), [(5, 2, 40), (0, 3, 25), (30, 28, 90)])
def test_tango_ends_have_the_asked_score_under_the_maximised_likelihood(lost, gained, n):
    rest = n - lost - gained
    for end, sign in zip(tango_interval(lost, gained, n, 0.9), (1, -1), strict=True):

        def loss(q, end=end):
            shares = (q + end, q, 1 - 2 * q - end)
            return -sum(
                k * math.log(s) for k, s in zip((lost, gained, rest), shares, strict=True) if k
            )

        bounds = (max(0, -end) + 1e-12, (1 - end) / 2 - 1e-12)
        q = optimize.minimize_scalar(
            loss, bounds=bounds, method="bounded", options={"xatol": 1e-12}
        ).x
        score = (lost - gained - n * end) / math.sqrt(n * (2 * q + end * (1 - end)))
        assert score == pytest.approx(sign * stats.norm.ppf(0.95), rel=1e-4)


def test_tango_interval_ends_at_one_when_every_example_was_lost():
    low, high = tango_interval(44, 0, 44, 0.95)
    assert high == 1.0
    assert 0.8 < low < 1.0


def test_drop_counts_what_was_lost_and_gained():
    reference = np.array([True, True, True, False, False, True])
    candidate = np.array([True, False, False, True, False, True])
    found = paired_interval(reference, candidate)
    assert (found.examples, found.lost, found.gained) == (6, 2, 1)
    assert found.drop == pytest.approx(1 / 6)
    assert found.low < found.drop < found.upper < found.high


def test_drop_changes_sign_when_the_models_change_places():
    random = np.random.default_rng(0)
    a, b = random.random(300) < 0.8, random.random(300) < 0.7
    there, back = paired_interval(a, b), paired_interval(b, a)
    assert there.drop == pytest.approx(-back.drop)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=1e-9)


def test_real_scores_get_students_interval_and_losses_point_the_other_way():
    random = np.random.default_rng(1)
    reference = random.gamma(2, 1, 500)
    candidate = reference + random.normal(0.1, 0.3, 500)
    found = paired_interval(reference, candidate, higher_is_better=False)
    expected = stats.ttest_rel(candidate, reference)
    two = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((two.low, two.high))
    assert found.drop == pytest.approx((candidate - reference).mean())
    one = stats.ttest_rel(candidate, reference, alternative="less").confidence_interval(0.95)
    assert found.upper == pytest.approx(one.high)


def test_identical_scores_have_no_drop_but_an_uncertain_one():
    right = np.ones(3200, bool)
    found = paired_interval(right, right)
    assert found.drop == 0
    assert 0 < found.upper < found.high < 0.0013


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([1.0], [1.0], "at least 2"),
        ([1.0, 0.0], [1.0], "two equal shapes"),
        ([[1.0, 0.0]], [[1.0, 0.0]], "two equal shapes"),
        ([1.0, math.nan], [1.0, 0.0], "finite"),
    ],
)
def test_bad_scores_are_refused(a, b, message):
    with pytest.raises(ValueError, match=message):
        paired_interval(np.array(a), np.array(b))


def test_bad_confidence_is_refused():
    with pytest.raises(ValueError, match="confidence"):
        paired_interval(np.ones(3), np.ones(3), confidence=1.0)


def test_weighted_drop_equals_the_ratio_estimate_by_hand() -> None:
    d, w = np.array([1.0, 0.0, -1.0, 3.0]), np.array([10.0, 5.0, 2.0, 8.0])
    found = weighted_interval(d, w)
    drop = 3 / 25
    error = np.sqrt(4 / 3 * np.sum((d - drop * w) ** 2)) / 25
    assert found.drop == pytest.approx(drop)
    # Student's 97.5 % and 95 % quantiles with three degrees of freedom.
    reach = max(3.1824463 * error, -np.log(0.025) / 4)
    assert found.high - found.drop == pytest.approx(reach)
    assert found.drop - found.low == pytest.approx(reach)
    assert found.upper - found.drop == pytest.approx(max(2.3533634 * error, -np.log(0.05) / 4))
    assert (found.lost, found.gained, found.examples) == (2, 1, 4)


def test_weighted_drop_of_nothing_is_bounded_by_the_rule_of_three() -> None:
    found = weighted_interval(np.zeros(500), np.full(500, 30.0))
    assert found.drop == 0.0
    assert found.upper == pytest.approx(-np.log(0.05) / 500)


def test_weighted_drop_covers_the_truth_of_unlike_examples() -> None:
    random = np.random.default_rng(2)
    covered = 0
    for _ in range(1000):
        weights = random.integers(1, 60, 400).astype(float)
        # Long examples lose more: the mean of ratios would miss the ratio of sums.
        differences = weights * (0.02 + 0.001 * weights) + random.normal(0, 9, 400)
        truth = 0.02 + 0.001 * (60 * 119 / 6) / 30
        found = weighted_interval(differences, weights)
        covered += found.low <= truth <= found.high
    assert covered / 1000 == pytest.approx(0.95, abs=0.025)


@pytest.mark.parametrize("bad", [np.ones(3), np.ones((2, 2)), np.array([1.0, np.nan])])
def test_weighted_drop_refuses_what_is_no_drop(bad: np.ndarray) -> None:
    with pytest.raises(ValueError):
        weighted_interval(bad, np.ones(2))
