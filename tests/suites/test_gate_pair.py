"""Pairs of samplers of known speed: the order of execution, the difference, a neighbour."""

from __future__ import annotations

import math

import numpy as np
import pytest

from suites.gate.pair import PairPlan, measure_pair
from suites.measure.meters.meter import Seen
from suites.measure.meters.surroundings import Surroundings


class Machine:
    """Time that passes only in calls; ``speed`` says how slow the machine is at a time."""

    def __init__(self, speed=lambda now: 1.0) -> None:
        self.now = 0.0
        self.speed = speed
        self.order: list[str] = []

    def clock(self) -> float:
        return self.now


class Side:
    def __init__(self, machine: Machine, name: str, call_s: float) -> None:
        self.machine, self.name, self.call_s = machine, name, call_s

    def sample(self, calls: int, rewarm: int) -> np.ndarray:
        self.machine.order.append(self.name)
        taken = []
        for _ in range(calls + rewarm):
            seconds = self.call_s * self.machine.speed(self.machine.now)
            self.machine.now += seconds
            taken.append(seconds * 1e9)
        return np.array(taken[rewarm:], np.int64)


def pair(machine: Machine, ratio: float, first: bool = True, **plan: float):
    sides = Side(machine, "candidate", 0.005 * ratio), Side(machine, "baseline", 0.005)
    return measure_pair(*sides, first, PairPlan(**plan), clock=machine.clock)


@pytest.mark.parametrize("first", [True, False])
def test_sides_alternate_and_the_coin_says_which_begins(first: bool) -> None:
    machine = Machine()
    pair(machine, 1.0, first, rounds=4)
    blocks = machine.order[-8:]
    a, b = ("candidate", "baseline") if first else ("baseline", "candidate")
    assert blocks == [a, b, b, a, a, b, b, a]
    assert machine.order[0] == a


def test_the_difference_is_the_log_of_the_ratio() -> None:
    found = pair(Machine(), 1.05)
    assert found.difference == pytest.approx(math.log(1.05), abs=1e-6)
    assert found.candidate_ns.shape == found.baseline_ns.shape == (12,)


def test_a_drifting_machine_and_a_neighbour_for_some_rounds_do_not_show() -> None:
    drift = pair(Machine(lambda now: 1 + now), 1.0)
    assert abs(drift.difference) < 0.03
    random = np.random.default_rng(0)
    busy = pair(Machine(lambda now: 4.0 if random.random() < 0.15 else 1.0), 1.02, block_s=0.03)
    assert busy.difference == pytest.approx(math.log(1.02), abs=1e-6)


def test_calls_below_the_clocks_tick_are_compared_as_ticks() -> None:
    class Instant(Side):
        def sample(self, calls: int, rewarm: int) -> np.ndarray:
            super().sample(calls, rewarm)
            return np.zeros(calls, np.int64)

    machine = Machine()
    sides = Instant(machine, "a", 0.001), Instant(machine, "b", 0.001)
    assert measure_pair(*sides, True, PairPlan(), clock=machine.clock).difference == 0.0


class Counter:
    """A meter of others' CPU time on a machine where they use half a core all the time."""

    name, covers = "load", "a machine that is made up"

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.asked: list[int] = []

    def read(self) -> float:
        self.asked.append(len(self.machine.order))
        return 0.5 * self.machine.now

    def between(self, before: float, after: float, seconds: float) -> Seen:
        return Seen({"machine_others_cores": (after - before) / seconds}, ())


def test_others_load_is_read_around_the_rounds_and_never_within() -> None:
    machine = Machine()
    meter = Counter(machine)
    around = Surroundings([meter], clock=lambda: 0.0)
    meter.asked.clear()
    sides = Side(machine, "candidate", 0.005), Side(machine, "baseline", 0.005)
    found = measure_pair(*sides, True, PairPlan(rounds=4), around, clock=machine.clock)
    assert found.others_cores == pytest.approx(0.5)
    assert meter.asked == [len(machine.order) - 8, len(machine.order)]
    assert pair(Machine(), 1.0).others_cores is None
