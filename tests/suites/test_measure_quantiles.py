"""Quantile intervals against exact binomial sums and hand-computed ranks."""

import math
from math import comb

import numpy as np
import pytest

from suites.measure.quantiles import (
    TRUSTED_EFFECTIVE,
    Insufficient,
    QuantileEstimate,
    autoregressive_samples,
    binomial_ranks,
    effective_samples,
    needed_samples,
    quantile_interval,
)


def below(k: int, m: int, p: float) -> float:
    """P(B <= k) for B ~ Binomial(m, p), summed term by term."""
    return sum(comb(m, i) * p**i * (1 - p) ** (m - i) for i in range(k + 1))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("m", [5, 6, 10, 37, 64, 200])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_ranks_are_the_tightest_that_the_binomial_allows(m, p, confidence):
    tail = (1 - confidence) / 2
    lows = [rank for rank in range(1, m + 1) if below(rank - 1, m, p) <= tail]
    highs = [rank for rank in range(1, m + 1) if 1 - below(rank - 1, m, p) <= tail]
    expected = (max(lows), min(highs)) if lows and highs else None
    assert binomial_ranks(m, p, confidence) == expected


@pytest.mark.parametrize(
    ("p", "confidence", "needed"), [(0.99, 0.95, 368), (0.9, 0.95, 36), (0.5, 0.95, 6)]
)
def test_fewest_samples_are_those_from_which_both_ranks_exist(p, confidence, needed):
    assert needed_samples(p, confidence) == needed
    assert binomial_ranks(needed, p, confidence) is not None
    assert binomial_ranks(needed - 1, p, confidence) is None


def test_interval_is_made_of_the_samples_at_the_exact_ranks():
    series = np.random.default_rng(0).permutation(np.arange(1.0, 101.0))
    found = quantile_interval(series, 0.5, 0.95, effective=100)
    # The textbook ranks for the median of 100: 40 and 61.
    assert (found.low, found.high) == (40.0, 61.0)
    assert found.value == pytest.approx(50.5)
    assert found.precision == pytest.approx(21 / 2 / 50.5)


def test_interval_widens_outwards_when_the_samples_are_worth_fewer():
    series = np.arange(1.0, 101.0)
    found = quantile_interval(series, 0.5, 0.95, effective=20)
    # Ranks 6 and 15 of 20, scaled by 101 / 21: 28.9 down, 72.1 up.
    assert (found.low, found.high) == (28.0, 73.0)


def test_p99_is_insufficient_when_the_sample_cannot_support_it():
    series = np.random.default_rng(1).standard_normal(367)
    assert quantile_interval(series, 0.99, 0.95, effective=367) == Insufficient(
        0.99, 0.95, 367, 368
    )
    more = np.append(series, 10.0)
    found = quantile_interval(more, 0.99, 0.95, effective=368)
    assert isinstance(found, QuantileEstimate)
    assert found.high == 10.0


def test_constant_series_has_an_interval_of_no_width():
    found = quantile_interval(np.full(40, 7), 0.5)
    assert (found.value, found.low, found.high, found.precision) == (7, 7, 7, 0)
    assert found.effective == 40


def test_ties_keep_the_value_inside_its_interval():
    series = np.random.default_rng(2).integers(10, 12, 200)
    found = quantile_interval(series, 0.5)
    assert found.low <= found.value <= found.high
    assert {found.low, found.high} <= {10.0, 11.0}


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_too_few_samples_are_insufficient_and_never_a_number(n):
    found = quantile_interval(np.arange(n) + 1.0, 0.5)
    assert isinstance(found, Insufficient)
    assert found.needed >= 6


@pytest.mark.parametrize(
    "series", [[], [[1.0, 2.0]], [1.0, math.nan, 2.0], [1.0, math.inf]], ids=str
)
def test_bad_series_is_refused(series):
    with pytest.raises(ValueError, match="finite series"):
        quantile_interval(np.array(series), 0.5)


@pytest.mark.parametrize(("p", "confidence"), [(0, 0.95), (1, 0.95), (0.5, 0), (0.5, 1)])
def test_bad_level_is_refused(p, confidence):
    with pytest.raises(ValueError, match="must lie in"):
        quantile_interval(np.arange(10.0), p, confidence)


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9])
def test_effective_samples_of_an_autoregression_approach_their_theory(phi):
    random = np.random.default_rng(3)
    n = 20_000
    series = random.standard_normal(n)
    for step in range(1, n):
        series[step] = phi * series[step - 1] + math.sqrt(1 - phi**2) * series[step]
    theory = n * (1 - phi) / (1 + phi)
    assert autoregressive_samples(series) == pytest.approx(theory, rel=0.1)
    # The median's indicator depends less on itself: rho_k = 2/pi asin(phi^k) (Sheppard 1899).
    tau = 1 + 2 * sum(2 / math.pi * math.asin(phi**k) for k in range(1, 400))
    assert min(theory, n / tau) * 0.85 <= effective_samples(series, 0.5) <= n / tau * 1.1


def test_effective_samples_never_exceed_the_samples():
    alternating = np.tile([1.0, 2.0], 100) + np.random.default_rng(4).normal(0, 0.1, 200)
    assert effective_samples(alternating, 0.5) == 200


def test_detrended_autoregression_sees_noise_around_a_line():
    random = np.random.default_rng(5)
    series = np.linspace(0, 10, 300) + random.standard_normal(300)
    assert autoregressive_samples(series) < 30
    assert autoregressive_samples(series, detrended=True) > 200


def test_short_dependent_series_is_insufficient_rather_than_overconfident():
    walk = np.cumsum(np.random.default_rng(6).standard_normal(40))
    found = quantile_interval(walk, 0.5)
    assert isinstance(found, Insufficient)
    assert found.effective < TRUSTED_EFFECTIVE <= found.needed
