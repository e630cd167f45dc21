"""The ratio of two interleaved cells, from a real run of the loop on a machine that drifts."""

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from scripts.coverage import measured
from suites.measure.loop import measure
from suites.measure.plan import MeasurePlan
from suites.measure.ratio import ratio_interval, ratios, signed_rank


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


def differences_of(pair):
    logs = [
        [
            math.log(np.median(cell.samples.nanoseconds[cell.samples.round == number]))
            for number in range(ratio_interval(*pair).rounds)
        ]
        for cell in pair
    ]
    return np.array(logs[0]) - np.array(logs[1])


def test_ratio_is_the_middle_of_what_the_signed_rank_test_does_not_reject(pair):
    ratio, found = ratio_interval(*pair), differences_of(pair)
    averages = [(a + b) / 2 for place, a in enumerate(found) for b in found[place:]]
    assert math.log(ratio.value) == pytest.approx(np.median(averages))
    # Dependence among rounds may only widen it.
    kept = [
        shift
        for shift in np.linspace(found.min(), found.max(), 200)
        if stats.wilcoxon(found - shift, method="exact").pvalue > 0.05
    ]
    assert ratio.low <= math.exp(min(kept))
    assert ratio.high >= math.exp(max(kept))


def rounds_of(medians_ms):
    """A cell with one call in each round."""
    return measured(np.array(medians_ms, float) / 10, calls=1)


def alternating(n, size=0.01):
    """Differences that change their sign from round to round: no round depends on another."""
    return size * np.where(np.arange(n) % 2 == 0, 1, -1) * (1 + np.arange(n) / (10 * n))


@pytest.mark.parametrize("rounds", [6, 9, 15, 40])
def test_ratio_has_the_ends_of_the_exact_test_where_rounds_are_independent(rounds):
    found = alternating(rounds) + 0.2
    ratio = ratio_interval(rounds_of(np.exp(found) * 10), rounds_of(np.full(rounds, 10.0)))
    for end, outwards in ((ratio.low, -1), (ratio.high, 1)):
        inside, outside = (math.log(end) - outwards * 1e-6, math.log(end) + outwards * 1e-6)
        assert stats.wilcoxon(found - inside, method="exact").pvalue > 0.05
        assert stats.wilcoxon(found - outside, method="exact").pvalue <= 0.05


def test_ratio_of_five_rounds_is_students():
    found = alternating(5) + 0.2
    ratio = ratio_interval(rounds_of(np.exp(found) * 10), rounds_of(np.full(5, 10.0)))
    plain = stats.ttest_1samp(found, 0).confidence_interval(0.95)
    assert (ratio.low, ratio.high) == pytest.approx((math.exp(plain.low), math.exp(plain.high)))
    assert ratio.value == pytest.approx(math.exp(found.mean()))


def test_ratio_is_not_moved_by_a_round_in_which_the_machine_changed_its_speed():
    found = alternating(20) + 0.2
    found[7] = 1.8  # the one block was over when a neighbour came
    ratio = ratio_interval(rounds_of(np.exp(found) * 10), rounds_of(np.full(20, 10.0)))
    assert ratio.value == pytest.approx(math.exp(0.2), rel=0.01)
    assert ratio.high / ratio.low < 1.03
    by_student = stats.ttest_1samp(found, 0).confidence_interval(0.95)
    assert by_student.high - by_student.low > 0.3


def test_ratio_of_a_thousand_rounds_averages_the_pairs_of_some():
    found = alternating(1001) + 0.2
    ratio = ratio_interval(rounds_of(np.exp(found) * 10), rounds_of(np.full(1001, 10.0)))
    assert ratio.rounds == 1001
    assert ratio.value == pytest.approx(math.exp(0.2), rel=0.01)


@pytest.mark.parametrize("n", [3, 5, 6, 9, 12])
def test_signed_rank_is_the_one_of_all_signs_counted(n):
    ranks = np.arange(1, n + 1)
    sums = np.array([ranks[list(signs)].sum() for signs in product((False, True), repeat=n)])
    below = [np.mean(sums < k) for k in range(len(sums))]
    assert signed_rank(n, 0.95) == max(k for k, chance in enumerate(below) if chance <= 0.025)


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
    assert vars(found["slow"]["fast"]) == pytest.approx(vars(ratio_interval(slow, fast)))
    assert vars(found["fast"]["slow"]) == pytest.approx(vars(ratio_interval(fast, slow)))


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
