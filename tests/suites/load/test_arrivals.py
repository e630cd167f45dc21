"""Arrivals from a seed: their mean, their spread, and that nothing else decides them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from compile.errors import InputError
from suites.measure.load.arrivals import arrivals


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_gaps_have_the_mean_of_the_rate_and_the_spread_of_the_shape(burstiness: float) -> None:
    n, rate = 40_000, 80.0
    gaps = np.diff(arrivals(rate, burstiness, 5, requests=n + 1)) / 1e9
    spread = 1 / np.sqrt(burstiness)
    # Five standard errors of the mean, and a generous share for the standard deviation's.
    assert gaps.mean() == pytest.approx(1 / rate, rel=5 * spread / np.sqrt(n))
    assert gaps.std() / gaps.mean() == pytest.approx(spread, rel=0.06)
    levels = (0.5, 0.75, 0.95)
    truth = stats.gamma(burstiness, scale=1 / (rate * burstiness)).ppf(levels)
    assert np.quantile(gaps, levels) == pytest.approx(truth, rel=0.08)


def test_counts_of_poisson_arrivals_vary_like_poisson() -> None:
    counts = [len(arrivals(100, 1, seed, seconds=1.0)) for seed in range(400)]
    assert np.mean(counts) == pytest.approx(100, abs=2.5)
    # A schedule that is stretched to its rate, as vLLM's, would have none of this variance.
    assert np.var(counts) == pytest.approx(100, rel=0.35)


def test_an_infinite_shape_is_an_even_beat() -> None:
    np.testing.assert_array_equal(
        arrivals(1000, float("inf"), 0, requests=4), np.arange(1, 5) * 1_000_000
    )


def test_the_seed_decides_and_a_longer_schedule_begins_like_a_shorter_one() -> None:
    short, long = (arrivals(300, 0.5, (7, 2), seconds=s) for s in (1.0, 5.0))
    np.testing.assert_array_equal(short, long[: len(short)])
    assert len(long) > 3 * len(short)
    assert (np.diff(long) >= 0).all()
    assert long[-1] < 5e9
    assert long.dtype == np.int64
    assert not np.array_equal(short[:50], arrivals(300, 0.5, (7, 3), seconds=1.0)[:50])


@pytest.mark.parametrize(
    ("rate", "burstiness", "much"),
    [
        (0.0, 1.0, {"seconds": 1.0}),
        (1.0, 0.0, {"seconds": 1.0}),
        (1.0, 1.0, {}),
        (1.0, 1.0, {"seconds": 1.0, "requests": 5}),
    ],
)
def test_what_is_no_schedule_is_refused(rate: float, burstiness: float, much: dict) -> None:
    with pytest.raises(ValueError, match="arrivals need"):
        arrivals(rate, burstiness, 0, **much)


def test_more_requests_than_memory_should_hold_are_the_users_to_mend() -> None:
    with pytest.raises(InputError, match=r"1,000,000,000 requests .* lower rate"):
        arrivals(1e9, 1.0, 0, seconds=1.0)
