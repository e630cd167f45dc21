"""The e-process against numerical integration and simulation, and the verdicts made of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, stats

from suites.gate.eprocess import log_evidence
from suites.gate.verdict import PairedVerdict


def verdict(comparisons: int = 1, **others: float) -> PairedVerdict:
    settings = {"ignore": 0.01, "margin": 0.05, "alpha": 0.01, "beta": 0.05, **others}
    return PairedVerdict(**settings, comparisons=comparisons, max_pairs=60)


def decided(differences: np.ndarray, comparisons: int = 1) -> PairedVerdict:
    found = verdict(comparisons)
    for difference in differences:
        if found.finished:
            break
        found.add(float(difference))
    return found


def test_evidence_is_the_mean_fortune_of_all_stakes() -> None:
    values = np.array([0.03, -0.01, 0.05, 0.2, -0.4])
    won = [0.6, -0.2, 1.0, 1.0, -1.0]

    def fortune(stake: float) -> float:
        return 2 * stake * math.prod(1 + stake * x for x in won)

    # Stakes with density 2 s, in 64 steps.
    expected, _ = integrate.quad(fortune, 0, 1)
    assert log_evidence(values, 0.05)[-1] == pytest.approx(math.log(expected), abs=1e-3)
    assert log_evidence(values * 3, 0.15) == pytest.approx(log_evidence(values, 0.05), abs=1e-12)
    # After each pair it is what it would be if no more came.
    assert log_evidence(values, 0.05)[2] == pytest.approx(log_evidence(values[:3], 0.05)[-1])


def test_no_evidence_is_one_and_evidence_against_is_small_but_finite() -> None:
    assert verdict().slower == verdict().fast_enough == 0.0
    assert -200 < log_evidence(np.full(1000, -0.05), 0.05)[-1] < -50


@pytest.mark.parametrize("bad", [np.array([np.nan]), np.array([np.inf]), np.ones((2, 2))])
def test_evidence_refuses_what_is_no_difference(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="finite"):
        log_evidence(bad, 0.1)
    with pytest.raises(ValueError, match="limit"):
        log_evidence(np.ones(2), 0.0)


@pytest.mark.parametrize("noise", ["normal", "cauchy", "growing", "two-valued", "below"])
def test_symmetric_noise_of_any_shape_alarms_as_rarely_as_promised(noise: str) -> None:
    """At the edge of the null, looked at after each of 60 pairs, at most 5 % reach 20."""
    random = np.random.default_rng(3)
    alarms = 0
    for _ in range(300):
        d = {
            "normal": lambda: 0.02 * random.normal(size=60),
            "cauchy": lambda: 0.02 * random.standard_cauchy(size=60),
            "growing": lambda: np.linspace(0.001, 0.2, 60) * random.normal(size=60),
            "two-valued": lambda: 0.05 * random.choice([-1.0, 1.0], 60),
            # Symmetric about something below zero.
            "below": lambda: -0.01 + 0.05 * random.normal(size=60),
        }[noise]()
        alarms += bool((log_evidence(d, 0.05) >= math.log(20)).any())
    assert alarms <= stats.binom.isf(1e-4, 300, 0.05)


def test_an_outlier_among_pairs_hardly_delays_a_verdict() -> None:
    random = np.random.default_rng(6)

    def pairs(outliers: float) -> float:
        counts = []
        for _ in range(50):
            d = 0.01 * random.normal(size=60)
            d[random.random(60) < outliers] *= 30
            counts.append(len(decided(d).differences))
        return float(np.mean(counts))

    assert pairs(0.0) <= 8
    assert pairs(0.1) <= 1.5 * pairs(0.0)


def test_what_is_equal_passes_and_what_is_slower_regresses() -> None:
    random = np.random.default_rng(4)
    outcomes = {0.0: [], 0.05: [], 0.10: []}
    for slowdown, seen in outcomes.items():
        for _ in range(100):
            d = math.log1p(slowdown) + 0.02 * random.normal(size=60)
            seen.append(decided(d, comparisons=5).outcome)
    assert outcomes[0.0].count("pass") >= 98
    assert outcomes[0.0].count("regressed") == 0
    assert outcomes[0.05].count("regressed") >= 93
    assert outcomes[0.10].count("regressed") == 100


def test_noise_without_end_is_inconclusive_at_the_cap() -> None:
    found = decided(0.025 + 0.5 * np.random.default_rng(5).normal(size=60))
    assert (found.outcome, found.finished, len(found.differences)) == ("inconclusive", True, 60)
    with pytest.raises(ValueError, match="ended"):
        found.add(0.0)


def test_more_comparisons_ask_for_more_evidence() -> None:
    assert verdict(5).slower_needed == pytest.approx(math.log(500))
    slower = np.full(60, math.log(1.05))
    one, many = (len(decided(slower, k).differences) for k in (1, 50))
    assert one < many < 30


def test_a_pass_and_a_regression_exclude_one_another() -> None:
    for slowdown in np.linspace(-0.1, 0.2, 61):
        found = decided(np.full(60, math.log1p(slowdown)))
        if slowdown < 0.009:
            assert found.outcome == "pass"
        if slowdown > 0.051:
            assert found.outcome == "regressed"


def test_progress_counts_evidence_and_pairs_and_ends_at_one() -> None:
    found = verdict()
    assert found.progress == 0.0
    found.add(0.0)
    first = found.progress
    assert first == pytest.approx(
        max(found.fast_enough / math.log(20), found.slower / math.log(100), 1 / 60)
    )
    assert 0 < first < 1
    assert decided(np.zeros(60)).progress == 1.0
    # Evidence for neither side: the pairs run out.
    found = decided(0.029 + 0.06 * (-1.0) ** np.arange(30))
    assert not found.finished
    assert found.progress >= 0.5
