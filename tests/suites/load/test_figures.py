"""The figures of episodes that can be worked out by hand, and of queues whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from scripts.queueing import episode
from scripts.queues import interval_coverage
from suites.load.rows import latencies, throughput
from suites.measure.load.figures import Queue, figures
from suites.measure.load.saturation import saturation
from suites.measure.load.slo import Slo
from suites.measure.load.trace import NOT_SERVED, Trace
from suites.measure.quantiles import QuantileEstimate

MS = 1_000_000


@pytest.fixture
def by_hand() -> Trace:
    """100 ms, of which the first 20 are ramp-up; one slot, 10 ms a call, one request given up."""
    arrival = np.array([5, 30, 32, 34, 80, 95]) * MS
    start = np.array([5, 30, 40, 50, 80, NOT_SERVED / MS]) * MS
    finish = np.array([15, 40, 50, 60, 90, NOT_SERVED / MS]) * MS
    return Trace(arrival, start.astype(np.int64), finish.astype(np.int64), 100 * MS)


def test_a_trace_by_hand(by_hand: Trace) -> None:
    assert by_hand.kept.tolist() == [False, True, True, True, True, True]
    assert (by_hand.e2el_ns / MS).tolist() == [10, 18, 26, 10]
    assert (by_hand.queue_ns / MS).tolist() == [0, 8, 16, 0]
    assert (by_hand.service_ns / MS).tolist() == [10, 10, 10, 10]
    assert by_hand.max_concurrent == 3
    assert [by_hand.backlog(t * MS) for t in (4, 5, 15, 34, 40, 60, 100)] == [0, 1, 0, 3, 2, 0, 1]
    # From 30 to 60, 80 to 90 and, with the request that was given up, 95 to 100.
    assert by_hand.occupied_ns() == 45 * MS
    assert by_hand.busy_ns() == 40 * MS


def test_figures_by_hand(by_hand: Trace) -> None:
    found = figures([by_hand], Slo(20 * MS, 0.9), 0.95)
    assert found is not None
    assert (found.kept, found.completed, found.good) == (5, 4, 3)
    # The one that was given up is a miss.
    assert throughput(found, Slo(20 * MS, 0.9))["slo_met_share"] == pytest.approx(3 / 5)
    assert found.request_throughput == pytest.approx(5 / 0.1)  # the ramp-up's one too, as vLLM
    assert found.request_goodput == pytest.approx(4 / 0.1)
    assert (found.e2el_mean, found.e2el_std, found.queue_mean) == (None, None, None)
    row = latencies(found)
    assert (row["e2el_mean_ms"], row["queue_mean_ms"]) == (None, None)
    assert "e2el_p50" in row["insufficient"]
    assert row["effective_requests"] >= 1
    assert found.utilisation == pytest.approx(0.5)
    assert found.max_concurrent == 3
    assert not isinstance(found.e2el[0.99], QuantileEstimate)


def test_means_by_hand_where_all_were_answered(by_hand: Trace) -> None:
    times = (by_hand.arrival[:5], by_hand.start[:5], by_hand.finish[:5])
    found = figures([Trace(*times, 100 * MS)], None, 0.95)
    assert found is not None
    assert found.e2el_mean is not None
    assert found.e2el_std is not None
    assert found.queue_mean is not None
    assert found.e2el_mean / MS == pytest.approx(16)
    assert found.e2el_std / MS == pytest.approx(np.std([10, 18, 26, 10]))
    assert found.queue_mean / MS == pytest.approx(6)


def test_a_quantile_that_reaches_the_given_up_is_not_told() -> None:
    # 30 episodes of 100 independent requests, of which the last of each was given up.
    random, traces = np.random.default_rng(1), []
    for _ in range(30):
        arrival = np.arange(100) * 100 * MS
        start, finish = arrival.copy(), arrival + random.integers(MS, 90 * MS, 100)
        start[-1] = finish[-1] = NOT_SERVED
        traces.append(Trace(arrival, start, finish, 10_000 * MS))
    found = figures(traces, None, 0.95)
    assert found is not None
    assert found.completed == 30 * 79
    p90, p99 = found.e2el[0.9], found.e2el[0.99]
    assert isinstance(p90, QuantileEstimate)
    # The 0.9 of all 80 an episode are the 72 / 79 of those that were answered.
    assert p90.low / MS < 1 + 89 * 72 / 79 < p90.high / MS < 90
    assert not isinstance(p99, QuantileEstimate)


def test_throughput_is_of_all_episodes_also_of_those_that_brought_nothing(by_hand: Trace) -> None:
    nothing = np.empty(0, np.int64)
    early = Trace(*(np.array([t]) * MS for t in (5, 5, 15)), 100 * MS)  # in the ramp-up alone
    found = figures([by_hand, Trace(nothing, nothing, nothing, 200 * MS), early], None, 0.95)
    assert found is not None
    assert found.request_throughput == pytest.approx(6 / 0.4)
    found = figures([by_hand, early], Slo(10 * MS, 0.9), 0.95)
    assert found is not None
    assert found.request_goodput == pytest.approx(4 / 0.2)


def test_missed_requests_are_the_late_and_the_given_up(by_hand: Trace) -> None:
    assert Slo(20 * MS, 0.9).missed(by_hand).tolist() == [False, False, True, False, True]
    assert str(Slo(20 * MS, 0.99)) == "99 % within 20 ms"


def test_a_request_that_was_given_up_does_not_saturate_alone(by_hand: Trace) -> None:
    found = saturation([by_hand], 50.0)
    assert found.load == pytest.approx(0.5)
    assert found.offered_per_s == pytest.approx(5 / 0.08)
    assert found.achieved_per_s == pytest.approx(4 / 0.08)
    assert found.ratio == pytest.approx(0.8)
    assert (found.backlog, found.grown, found.given_up) == (1, 1, 1)
    assert (found.saturated, found.reason) == (False, "")
    full = replace(found, occupied=0.99, grown=0)
    assert full.reason.startswith("saturated: 50.0 of 62.5 requests/s were served")
    assert full.reason.endswith("; 1 requests were given up")
    assert not replace(full, given_up=0).saturated
    assert replace(found, load=1.0).saturated


def test_waiting_times_are_those_of_an_m_d_1_queue() -> None:
    # Pollaczek and Khinchine: the mean wait is rho / (2 (1 - rho)) services.
    rho = 0.6
    found = figures([episode(1000 * rho, 4.0, (1, i)) for i in range(20)], None, 0.95)
    assert found is not None
    assert found.queue_mean is not None
    assert found.queue_mean / MS == pytest.approx(rho / (2 * (1 - rho)), rel=0.1)
    assert found.utilisation == pytest.approx(rho, rel=0.03)
    # In an M/D/1 queue the wait is below one service with probability (1 - rho) e^rho.
    share = np.mean(episode(1000 * rho, 60.0, 3).queue_ns < MS)
    assert share == pytest.approx((1 - rho) * np.exp(rho), abs=0.02)


def test_requests_of_a_busy_queue_are_worth_few() -> None:
    calls = np.full(9000, MS)
    # An M/M/1 queue at 0.9 is worth one look in 2 (1 + u) / (1 - u)^2 = 380 services.
    exponential = stats.expon.ppf((np.arange(9000) + 0.5) / 9000) * MS
    assert Queue(0.9, 1.0).worth(exponential) == pytest.approx(9000 / (0.9 * 380), rel=0.01)
    assert Queue(0.9, 1.0).worth(calls) == pytest.approx(9000 / (0.9 * 190))
    assert Queue(0.9, 0.25).worth(calls) == pytest.approx(9000 / (0.9 * 760))
    assert Queue(0.2, 1.0).worth(calls) == 9000
    assert Queue(1.1, 1.0).worth(calls) == 1
    assert Queue(0.999, 1.0).worth(calls) == 1


def test_intervals_of_waiting_times_hold_where_they_are_given() -> None:
    cells = ((0.6, 600), (0.85, 850), (0.85, 3400))
    by_level = [interval_coverage(load, requests, 15) for load, requests in cells]
    found = [outcomes[p] for outcomes in by_level for p in (0.5, 0.9)]
    given = sum(outcome.given for outcome in found)
    assert given >= 45
    assert sum(outcome.held for outcome in found) / given >= 0.85  # nominal 0.95


def _saturated(load: float, requests: int, repeats: int, burstiness: float = 1.0) -> float:
    rate = 1000 * load
    return np.mean(
        [
            saturation(
                [episode(rate, requests / rate, (r, e), burstiness) for e in range(4)], rate
            ).saturated
            for r in range(repeats)
        ]
    )


def test_finite_samples_of_a_stable_queue_are_not_called_saturated() -> None:
    assert _saturated(0.8, 150, 60) == 0
    assert _saturated(0.9, 300, 60) <= 0.05


def test_more_than_can_be_served_is_saturated_however_little_more() -> None:
    assert _saturated(1.3, 60, 40) == 1
    assert _saturated(1.02, 60, 40) == 1


def test_the_realised_schedule_shows_it_where_the_rate_does_not() -> None:
    # A machine that was slower for a while than its mean call says: the queue alone tells.
    traces = [episode(1100, 0.6, (1, e)) for e in range(4)]
    found = saturation(traces, 900.0)
    assert found.load < 1
    assert found.saturated


def test_an_episode_without_requests_has_no_figures() -> None:
    empty = np.empty(0, np.int64)
    trace = Trace(empty, empty, empty, 100 * MS)
    assert figures([trace], None, 0.95) is None
    found = saturation([trace], 1.0)
    assert (found.saturated, found.ratio) == (False, None)
