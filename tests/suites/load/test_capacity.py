"""The capacity search against queues whose capacity is known."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from scripts.queueing import episode, lindley
from scripts.queues import FEW, bursty_searches, capacity_searches, search_capacity
from suites.measure.load.capacity import (
    CapacitySearch,
    fewest_requests,
    judge,
    miss_bounds,
    overloaded,
)
from suites.measure.load.saturation import saturation
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


def test_few_requests_an_episode_make_no_false_claims_either() -> None:
    # Of 60 searches 8 said "missed" of a rate below the capacity when a full schedule was enough.
    slo, seconds, probes = FEW
    searches = capacity_searches(slo, seconds, 40, probes=probes)
    assert searches.claims >= 70
    assert searches.false_claims <= 1
    # A hundred requests of a busy queue are worth few: of 969/s most searches show 612/s.
    assert searches.met > 0.6 * searches.truth


def test_bursts_that_a_series_does_not_show_make_no_false_claims() -> None:
    # Requests come some ten at a time. Where the series alone said what they are worth, one search
    # in ten met 750/s or more of a queue that keeps 748/s.
    bounded, alone = (
        bursty_searches(0.1, 0.7, 0.5, 40, probes=14, bounded=known) for known in (True, False)
    )
    assert bounded.truth == alone.truth == 748
    assert bounded.false_claims == 0 < alone.false_claims
    assert bounded.claims >= 75


def test_only_what_is_met_is_held_to_what_is_known_of_the_queue() -> None:
    trace = episode(800, 1.0, 3)
    known, alone = (judge([trace], 800, SLO, 0.05, burstiness) for burstiness in (1.0, None))
    counts = known.misses, known.requests
    assert known.worth < known.effective == alone.effective == alone.worth
    assert known.low == alone.low == miss_bounds(*counts, known.effective, 0.05)[0]
    assert known.high == miss_bounds(*counts, known.worth, 0.05)[1] > alone.high
    # Bursts make them worth less, and a queue without an end makes them worth one.
    assert judge([trace], 800, SLO, 0.05, 0.25).worth == pytest.approx(known.worth / 4)
    assert judge([episode(1200, 1.0, 3)], 1200, SLO, 0.05).worth == 1


def test_a_schedule_that_looks_saturated_is_neither_met_nor_missed() -> None:
    # More arrived than was asked for, as a short schedule may bring it.
    trace, loose = episode(1100, 0.6, 1), Slo(60_000 * MS, 0.5)
    assert saturation([trace], 900).saturated
    assert judge([trace], 900, loose, 0.01).verdict == "undecided"
    assert judge([trace], 1000, loose, 0.01).verdict == "missed"


def test_a_mean_of_few_or_noisy_calls_shows_no_overload() -> None:
    random = np.random.default_rng(2)
    due = np.arange(200) * MS // 2
    noisy = lindley(due, random.integers(0, 2 * MS, 200), 100 * MS)
    assert not overloaded([noisy], 1020, 0.01)
    assert overloaded([noisy], 1300, 0.01)
    few = lindley(due[:15], np.full(15, MS), 8 * MS)
    assert not overloaded([few], 1300, 0.01)


def test_a_rate_that_saturates_is_missed_whatever_the_slo() -> None:
    loose = Slo(60_000 * MS, 0.5)
    assert judge([episode(1300, 1.0, 1)], 1300, loose, 0.01).verdict == "missed"
    assert judge([episode(500, 1.0, 1)], 500, loose, 0.01).verdict == "met"


def test_too_few_requests_decide_nothing() -> None:
    # One per cent of misses cannot be ruled out by a hundred requests, even if none missed.
    found = judge([episode(100, 1.0, 1)], 100, Slo(50 * MS, 0.99), 0.05)
    assert (found.verdict, found.misses) == ("undecided", 0)


def test_the_search_is_bounded_and_stays_within_its_rates() -> None:
    search = CapacitySearch(SLO, 5000.0, probes=6, highest=1200.0)
    rates = []
    while (rate := search.next_rate()) is not None:
        assert rate == search.next_rate()  # asking changes nothing
        rates.append(rate)
        search.add(rate, episode(rate, 0.3, len(rates)))
    assert len(rates) == 6
    assert max(rates) == 1200.0
    assert search.found.probes == 6
    assert sum(len(search.traces(rate)) for rate in set(rates)) == 6


def _rates(search: CapacitySearch, seconds: float) -> list[float]:
    rates = []
    while (rate := search.next_rate()) is not None:
        rates.append(rate)
        search.add(rate, episode(rate, seconds, len(rates)))
    return rates


def test_the_search_goes_down_only_from_a_rate_that_was_missed() -> None:
    # Nothing of 99 % can be decided on so few requests, and on fewer even less.
    strict = Slo(50 * MS, 0.99)
    rates = _rates(CapacitySearch(strict, 100.0, probes=16, highest=150.0), 0.3)
    assert rates == [100.0] * 3 + [150.0] * 3
    # From what is missed it goes down, and not below the rate that it could still decide.
    rates = _rates(CapacitySearch(Slo(MS - 1, 0.9), 500.0, probes=16, lowest=200.0), 1.0)
    assert list(dict.fromkeys(rates)) == [500.0, 500.0 / 1.5, 500.0 / 1.5 / 1.5]


def test_a_search_without_a_capacity_says_why() -> None:
    # An objective that no call can keep, down to the rate that three episodes can still decide.
    search = CapacitySearch(Slo(MS - 1, 0.9), 500.0, probes=16, lowest=200.0)
    _rates(search, 1.0)
    found = search.found
    judged = found.judged[500.0 / 1.5 / 1.5]
    assert found.reason == (
        "SLO met at no offered rate: 90 % within 0.999999 ms was missed at 222/s "
        f"({judged.misses} of {judged.misses} requests), the lowest that was offered"
    )
    undecided = replace(found, judged={**found.judged, 150.0: replace(judged, verdict="undecided")})
    assert undecided.reason.endswith("nothing could be shown below it, down to 150/s")
    nothing = replace(found, missed=None, probes=7)
    assert nothing.reason == "no rate could be decided in 7 episodes"
    assert replace(found, met=100.0).reason == ""


def test_fewest_requests_are_those_whose_bound_just_reaches_the_objective() -> None:
    n = fewest_requests(0.9, 0.05, 16)
    assert n == 55
    assert miss_bounds(0, n, n, 0.05 / 16)[1] <= 0.1 < miss_bounds(0, n - 1, n - 1, 0.05 / 16)[1]


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
    # A deterministic verdict: an SLO that only overload can break, no rate close to a load of 1,
    # and at 0.945, where 600 requests are worth one, enough of them.
    loose = Slo(60_000 * MS, 0.5)
    number = itertools.count()
    found = search_capacity(
        lambda rate: episode(rate, 10.0, next(number)), loose, 420.0, probes=40, resolution=1.2
    )
    assert found.met is not None
    assert found.missed is not None
    assert found.missed / found.met <= 1.2
    assert found.met < 1000
    assert found.probes < 40
