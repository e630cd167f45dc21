"""Whose drift it was: the machine's, or one cell's own."""

from __future__ import annotations

import numpy as np
import pytest

from suites.measure.loop import measure
from suites.measure.measurement import Samples
from suites.measure.plan import MeasurePlan
from suites.measure.polish import own_times

PLAN = MeasurePlan(precision=0.0001, max_seconds=3.0, max_samples=400)


def cell(rounds: list[float]) -> Samples:
    """Three equal calls in each round."""
    numbers = np.repeat(np.arange(len(rounds), dtype=np.int32), 3)
    return Samples(
        nanoseconds=np.repeat(np.array(rounds) * 1e6, 3).astype(np.int64),
        warmup=np.zeros(numbers.size, bool),
        block=numbers,
        round=numbers,
        disturbed=np.zeros(numbers.size, bool),
    )


class Drifting:
    """Calls of ``call_ms`` on a machine whose time all share; ``own`` is a cell's own slope."""

    machine = 0.0
    slope = 0.0

    def __init__(self, call_ms: float, seed: int, own: float = 0.0) -> None:
        self.call_ms = call_ms
        self.own = own
        self.calls = 0
        self.random = np.random.default_rng(seed)

    def sample(self, calls: int, rewarm: int) -> np.ndarray:
        slow = 1 + Drifting.slope * Drifting.machine
        slow *= 1 + self.own * (self.calls + np.arange(calls))
        times = self.call_ms * slow * np.exp(0.02 * self.random.standard_normal(calls))
        self.calls += calls
        Drifting.machine += times.sum() / 1e3
        return (times * 1e6).astype(np.int64)


@pytest.fixture
def run():
    def run(slope: float, *owns: float) -> dict:
        Drifting.machine, Drifting.slope = 0.0, slope
        samplers = {f"c{i}": Drifting(10.0 + i, i, own) for i, own in enumerate(owns)}
        return measure(samplers, PLAN, 0, clock=lambda: Drifting.machine)

    return run


def test_effects_of_the_machine_are_taken_out_exactly():
    machine = [1.0, 1.5, 0.8, 2.0, 1.0]
    own = own_times({str(a): cell([a * m for m in machine]) for a in (2.0, 3.0, 7.0)})
    for level, times in own.items():
        # Up to one factor that all rounds share: polish fixes levels only relative to each other.
        assert np.ptp(times) / times.mean() < 1e-6
        assert times[0] / own["2.0"][0] == pytest.approx(float(level) / 2)


def test_a_cell_that_left_early_is_judged_by_its_own_rounds():
    machine = [1.0, 1.5, 0.8, 2.0, 1.0, 1.2]
    long = {
        name: cell([level * m for m in machine]) for name, level in (("a", 1), ("b", 3), ("c", 5))
    }
    own = own_times({**long, "early": cell(machine[:3])})
    assert len(own["early"]) == 9
    assert all(np.ptp(times) / times.mean() < 1e-6 for times in own.values())


def test_rounds_of_fewer_than_three_cells_say_nothing_of_the_machine():
    early = {name: cell([1.0] * 3) for name in "abc"}
    own = own_times({**early, "mover": cell([1, 1, 1, 2, 3, 4])})
    np.testing.assert_allclose(own["mover"], cell([1, 1, 1, 2, 3, 4]).kept)


def test_a_cell_that_drifts_when_the_others_have_finished_is_not_stationary():
    Drifting.machine, Drifting.slope = 0.0, 0.0
    samplers = {f"c{i}": Drifting(10.0, i, own) for i, own in enumerate((0.0, 0.0, 0.001, 0.0))}
    found = measure(samplers, MeasurePlan(), 0, clock=lambda: Drifting.machine)
    assert found["c2"].status == "not-stationary"
    assert {found[name].stopped_by for name in ("c0", "c1", "c3")} == {"precision"}
    assert {found[name].status for name in ("c0", "c1", "c3")} == {"ok"}


def test_what_one_cell_does_alone_stays_with_it():
    still = [1.0] * 6
    own = own_times({"a": cell(still), "b": cell(still), "mover": cell([1, 1, 1, 2, 2, 2])})
    assert np.ptp(own["a"]) < 1
    assert own["mover"][-1] / own["mover"][0] == pytest.approx(2)


def test_one_cell_alone_comes_back_as_it_is():
    alone = cell([1.0, 2.0, 3.0])
    np.testing.assert_array_equal(own_times({"alone": alone})["alone"], alone.kept)


def test_a_machine_that_drifts_is_not_its_cells_fault(run):
    found = run(0.08, 0.0, 0.0, 0.0)
    for measurement in found.values():
        assert measurement.status == "ok"
        assert measurement.drift > 0.1
        assert abs(measurement.own_drift) < 0.03


def test_a_cell_that_drifts_by_itself_is_not_stationary(run):
    found = run(0.0, 0.0, 0.001, 0.0)
    assert [found[name].status for name in ("c0", "c1", "c2")] == ["ok", "not-stationary", "ok"]
    assert found["c1"].own_drift > 0.1
    assert "by itself" in found["c1"].reason


def test_a_cell_that_drifts_more_than_its_machine_is_not_stationary(run):
    found = run(0.08, 0.0, 0.001, 0.0)
    assert [found[name].status for name in ("c0", "c1", "c2")] == ["ok", "not-stationary", "ok"]


def test_of_two_that_part_the_one_that_moved_is_not_trusted(run):
    found = run(0.0, 0.0, 0.001)
    assert [found[name].status for name in ("c0", "c1")] == ["ok", "not-stationary"]
