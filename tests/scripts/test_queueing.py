"""The simulated queue, and the exact distribution that what is said of load is held to."""

import numpy as np
import pytest
from scipy import integrate

from runtimes.serving import NOT_SERVED
from scripts.queueing import (
    bursty_objective,
    episode,
    lindley,
    true_capacity,
    true_e2el,
    waits_at_most,
)
from suites.measure.load.slo import Slo

MS = 1_000_000


def test_a_queue_is_its_recursion():
    random = np.random.default_rng(1)
    due = np.cumsum(random.exponential(MS, 500)).astype(np.int64)
    service = random.exponential(MS, 500).astype(np.int64)
    trace, cut = (lindley(due, service, 500 * MS, limit) for limit in (None, 400 * MS))
    free = 0
    for i in range(500):
        free = (begin := max(int(due[i]), free)) + int(service[i])
        assert (trace.start[i], trace.finish[i]) == (begin, free)
        told = (begin, free) if begin <= 400 * MS else (NOT_SERVED, NOT_SERVED)
        assert (cut.start[i], cut.finish[i]) == told
    assert 0 < cut.served.sum() < 500


@pytest.mark.parametrize("load", [0.4, 0.85])
def test_waiting_times_have_the_mean_of_pollaczek_and_khinchine_and_erlangs_beginning(load):
    for services in (0.0, 0.4, 0.99):
        erlang = (1 - load) * np.exp(load * services)
        assert waits_at_most(services, load) == pytest.approx(erlang)
    waits = np.linspace(0, 100, 1501)
    longer = [1 - waits_at_most(services, load) for services in waits]
    assert min(longer) > -1e-12
    assert (np.diff(longer) < 1e-12).all()
    assert integrate.simpson(longer, x=waits) == pytest.approx(load / (2 * (1 - load)), rel=1e-3)


def test_truths_are_those_of_a_long_run():
    trace = episode(600, 400.0, 5)
    for p in (0.3, 0.5, 0.9, 0.99):
        assert true_e2el(0.6, p) == pytest.approx(np.quantile(trace.e2el_ns, p), rel=0.02)
    slo = Slo(4 * MS, 0.9)
    at_capacity = episode(true_capacity(slo), 400.0, 6)
    assert slo.missed(at_capacity).mean() == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("burstiness", [1.0, 0.25])
def test_a_bursty_queues_objective_is_kept_at_its_capacity_and_just_so(burstiness):
    slo = bursty_objective(700, 0.8, burstiness)
    if burstiness == 1:  # M/M/1: the rate at which the time's tail falls is what is left over
        assert slo.e2el_ns == pytest.approx(-np.log(0.2) / 0.3 * MS)
    trace = episode(700, 800.0, 7, burstiness, exponential=True)
    assert slo.missed(trace).mean() == pytest.approx(0.2, abs=0.015)
