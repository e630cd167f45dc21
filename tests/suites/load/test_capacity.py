"""The capacity search against queues whose capacity is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from scripts.queues import capacity_searches, episode, lindley
from suites.measure.load.capacity import CapacitySearch, judge, miss_bounds, search_capacity
from suites.measure.load.slo import Slo

MS = 1_000_000
SLO = Slo(4 * MS, 0.9)


def test_bounds_are_those_of_clopper_and_pearson() -> None:
    low, high = miss_bounds(3, 50, 50, 0.05)
    assert stats.binom.sf(2, 50, low) == pytest.approx(0.05)
    assert stats.binom.cdf(3, 50, high) == pytest.approx(0.05)
    assert miss_bounds(0, 50, 50, 0.05) == pytest.approx((0, 1 - 0.05 ** (1 / 50)))
    assert miss_bounds(50, 50, 50, 0.05) == pytest.approx((0.05 ** (1 / 50), 1))


def test_dependent_requests_have_wider_bounds() -> None:
    low, high = miss_bounds(30, 500, 500, 0.05)
    lower, higher = miss_bounds(30, 500, 50.7, 0.05)
    assert lower < low < 0.06 < high < higher
    # Three of fifty: rounded up to 3 of 50, never to fewer.
    assert higher == pytest.approx(stats.beta.ppf(0.95, 4, 47))


def test_searches_claim_a_false_rate_no_more_often_than_they_may() -> None:
    searches = capacity_searches(SLO, 1.0, 12)
    assert 650 < searches.truth < 740
    assert searches.claims >= 22
    assert searches.false_claims <= 2  # of 24 claims, each false with 5 % at most
    assert searches.none_met <= 1 / 12
    # And it says something: within a factor of two of the truth.
    assert searches.met > searches.truth / 2
    assert all(found.probes <= 16 for found in searches.found)


def test_a_rate_that_saturates_is_missed_whatever_the_slo() -> None:
    loose = Slo(60_000 * MS, 0.5)
    assert judge([episode(1300, 1.0, 1)], 1300, loose, 0.01).verdict == "missed"
    assert judge([episode(500, 1.0, 1)], 500, loose, 0.01).verdict == "met"


def test_too_few_requests_decide_nothing() -> None:
    # One per cent of misses cannot be ruled out by a hundred requests, even if none missed.
    found = judge([episode(100, 1.0, 1)], 100, Slo(50 * MS, 0.99), 0.05)
    assert (found.verdict, found.misses) == ("undecided", 0)


def test_the_search_is_bounded_and_stays_within_its_rates() -> None:
    search = CapacitySearch(SLO, 5000.0, probes=6, highest=800.0)
    rates = []
    while (rate := search.next_rate()) is not None:
        assert rate == search.next_rate()  # asking changes nothing
        rates.append(rate)
        search.add(rate, episode(rate, 0.3, len(rates)))
    assert len(rates) == 6
    assert max(rates) == 800.0
    assert search.found.probes == 6
    assert sum(len(search.traces(rate)) for rate in set(rates)) == 6


def test_the_ends_of_the_bracket_rest_on_more_than_one_episode() -> None:
    # The second episode falls into seconds in which the machine took twice as long for a call.
    number = itertools.count(1)
    search = CapacitySearch(SLO, 450.0, probes=16)
    slow = None
    while (rate := search.next_rate()) is not None:
        trace = episode(rate, 1.0, (number_now := next(number), 9))
        if number_now == 2:
            slow, due = rate, trace.arrival
            trace = lindley(due, np.full(len(due), 2 * MS), 1000 * MS, 1500 * MS)
            search.add(rate, trace)
            assert search.found.missed == rate
        else:
            search.add(rate, trace)
    found = search.found
    for end in (found.met, found.missed):
        assert end is None or len(search.traces(end)) >= 2
    assert slow is not None
    assert len(search.traces(slow)) >= 2


def test_a_search_ends_when_its_interval_is_narrow_enough() -> None:
    # A deterministic verdict: an SLO that only saturation can break.
    loose = Slo(60_000 * MS, 0.5)
    number = itertools.count()
    found = search_capacity(
        lambda rate: episode(rate, 2.0, next(number)), loose, 400.0, probes=40, resolution=1.2
    )
    assert found.met is not None
    assert found.missed is not None
    assert found.missed / found.met <= 1.2
    assert found.met < 1000
    assert found.probes < 40
