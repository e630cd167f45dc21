"""The ratio of two interleaved cells, from a real run of the loop on a machine that drifts."""

import math

import numpy as np
import pytest
from scipy import stats

from suites.measure.loop import measure
from suites.measure.plan import MeasurePlan
from suites.measure.ratio import ratio_interval, ratios


class Drifting:
    """Calls of ``call_ms`` on a machine, shared by all, that slows down as its time passes."""

    time = 0.0

    def __init__(self, call_ms, seed):
        self.call_ms = call_ms
        self.random = np.random.default_rng(seed)

    def sample(self, calls, rewarm):
        slow = 1 + 0.02 * Drifting.time
        times = self.call_ms * slow * np.exp(0.04 * self.random.standard_normal(calls))
        Drifting.time += times.sum() / 1e3
        return (times * 1e6).astype(np.int64)


@pytest.fixture
def pair():
    Drifting.time = 0.0
    samplers = {"slow": Drifting(13.0, 1), "fast": Drifting(10.0, 2)}
    plan = MeasurePlan(min_rounds=12, first_look=72)
    found = measure(samplers, plan, 0, clock=lambda: Drifting.time)
    return found["slow"], found["fast"]


def test_ratio_is_found_on_a_drifting_machine(pair):
    ratio = ratio_interval(*pair)
    assert ratio.low <= 1.3 <= ratio.high
    assert ratio.high / ratio.low < 1.08
    assert ratio.rounds >= 12


def test_ratio_turns_over_when_the_cells_change_places(pair):
    there, back = ratio_interval(*pair), ratio_interval(*reversed(pair))
    assert there.value == pytest.approx(1 / back.value)
    assert (there.low, there.high) == pytest.approx((1 / back.high, 1 / back.low))


def test_ratio_is_students_interval_of_the_rounds_when_they_are_independent(pair):
    logs = [
        [
            math.log(np.median(cell.samples.nanoseconds[cell.samples.round == number]))
            for number in range(ratio_interval(*pair).rounds)
        ]
        for cell in pair
    ]
    plain = stats.ttest_rel(*logs).confidence_interval(0.95)
    ratio = ratio_interval(*pair)
    assert ratio.value == pytest.approx(math.exp(np.mean(logs[0]) - np.mean(logs[1])))
    # Dependence among rounds may only widen it.
    assert ratio.low <= math.exp(plain.low) * (1 + 1e-12)
    assert ratio.high >= math.exp(plain.high) * (1 - 1e-12)


def test_ratio_is_none_without_three_common_rounds():
    plan = MeasurePlan(
        min_rounds=1, first_look=12, min_seconds=0, max_seconds=0.15, block_seconds=10
    )
    Drifting.time = 0.0
    samplers = {"a": Drifting(10.0, 1), "b": Drifting(10.0, 2)}
    found = measure(samplers, plan, 0, clock=lambda: Drifting.time)
    rounds = {name: len(set(m.samples.round[~m.samples.warmup])) for name, m in found.items()}
    assert min(rounds.values()) < 3
    assert ratio_interval(found["a"], found["b"]) is None


def test_ratios_of_all_pairs_are_those_of_each_pair(pair):
    slow, fast = pair
    found = ratios({"slow": slow, "fast": fast})
    assert found == {
        "slow": {"fast": ratio_interval(slow, fast)},
        "fast": {"slow": ratio_interval(fast, slow)},
    }


class Shared:
    """Calls on a machine that works at two speeds in turn, each for half a second: nobody's own
    median is known, everybody's ratio is."""

    time = 0.0

    def __init__(self, call_ms, seed):
        self.call_ms = call_ms
        self.random = np.random.default_rng(seed)

    def sample(self, calls, rewarm):
        speed = 1.0 if Shared.time % 1.0 < 0.5 else 1.7
        times = self.call_ms * speed * np.exp(0.02 * self.random.standard_normal(calls))
        Shared.time += times.sum() / 1e3
        return (times * 1e6).astype(np.int64)


def test_ratio_is_known_where_the_machine_is_too_restless_for_a_median():
    Shared.time = 0.0
    samplers = {"slow": Shared(12.0, 1), "fast": Shared(10.0, 2)}
    found = measure(samplers, MeasurePlan(drift_tolerance=10), 0, clock=lambda: Shared.time)
    assert {m.stopped_by for m in found.values()} == {"time"}
    ratio = ratios(found)["slow"]["fast"]
    assert ratio.low <= 1.2 <= ratio.high
    assert ratio.high / ratio.low < 1.2
