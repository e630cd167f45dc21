"""One measurement from several processes: against Student's interval and by simulation."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from compile.errors import InputError
from suites.measure.joined import of_processes
from suites.measure.loop import measure
from suites.measure.measurement import Measurement
from suites.measure.plan import MeasurePlan
from suites.measure.processes import balanced_quantile, between, share_of
from suites.measure.quantiles import (
    Insufficient,
    QuantileEstimate,
    binomial_ranks,
    quantile_interval,
)
from suites.measure.ratio import ratio_interval

STRETCH = {3: 1.4317, 4: 1.4361, 5: 1.4363}
"""Of intervals of so many processes, whose neighbours are correlated by a third."""
PLAN = MeasurePlan(first_look=60, min_seconds=0, max_seconds=60, min_warmup_s=0)


class Told:
    """A sampler whose calls take what it was told, in nanoseconds, one after the other."""

    def __init__(self, times):
        self._times = iter(times)

    def sample(self, calls, rewarm):
        return np.array([next(self._times) for _ in range(calls)], np.int64)


def process(level, noise=0.002, seed=0, plan=PLAN) -> Measurement:
    random = np.random.default_rng(seed)
    times = 1e6 * level * np.exp(noise * random.standard_normal(5000))
    return measure({"cell": Told(times)}, plan, seed)["cell"]


def processes(levels, **more) -> list[Measurement]:
    return [process(level, seed=number, **more) for number, level in enumerate(levels)]


def test_one_process_is_told_as_it_is():
    alone = process(4.0)
    assert of_processes([alone]) is alone
    assert alone.processes is None


def students(logs) -> tuple[float, float]:
    low, high = stats.t.interval(0.95, len(logs) - 1, np.mean(logs), stats.sem(logs))
    reach = STRETCH[len(logs)] * (high - low) / 2
    return np.mean(logs) - reach, np.mean(logs) + reach


@pytest.mark.parametrize("k", [3, 4, 5])
def test_intervals_are_stretched_as_correlated_processes_differ_more_than_they_show(k):
    """Against the covariance matrix of a first-order autoregression."""
    matrix = (1 / 3) ** np.abs(np.subtract.outer(np.arange(k), np.arange(k)))
    mean = matrix.mean()
    deviation = (np.trace(matrix) - k * mean) / (k - 1)
    assert STRETCH[k] == pytest.approx(math.sqrt(mean * k / deviation), rel=1e-4)


def test_the_interval_is_students_of_the_logarithms_of_the_medians():
    found = processes([4.0, 4.2, 3.9, 4.1, 4.6])
    joined = of_processes(found)
    logs = [math.log(np.median(each.samples.kept)) for each in found]
    low, high = students(logs)
    p50 = joined.quantiles[0.5]
    assert p50.low == pytest.approx(math.exp(low), rel=1e-4)
    assert p50.high == pytest.approx(math.exp(high), rel=1e-4)
    calls = np.sort(np.concatenate([each.samples.kept for each in found]))
    assert p50.value == calls[len(calls) // 2 - 1]  # of as many from each, the plain median
    assert joined.processes.count == 5
    assert joined.processes.unsteady == 0
    assert joined.processes.spread == pytest.approx(np.std(logs, ddof=1))
    assert joined.precision > max(each.precision for each in found)


def test_a_process_that_took_more_calls_counts_no_more_than_the_others():
    long = process(8.0, plan=dataclasses.replace(PLAN, first_look=2000, max_samples=2000))
    joined = of_processes([long, *processes([4.0, 4.0, 4.0, 4.0])])
    p50 = joined.quantiles[0.5]
    assert np.median(joined.samples.kept) > 7.9e6
    assert p50.value == pytest.approx(4e6, rel=0.01)
    assert p50.low <= p50.value <= p50.high


def test_a_balanced_quantile_is_that_of_the_calls_where_each_part_has_as_many():
    parts = list(np.random.default_rng(2).lognormal(size=(4, 75)))
    for level in (0.01, 0.5, 0.9, 0.99):
        expected = np.quantile(np.concatenate(parts), level, method="inverted_cdf")
        assert balanced_quantile(parts, level) == expected
    # Twice the same calls are no second process.
    doubled = [np.repeat(parts[0], 2), *parts[1:]]
    assert balanced_quantile(doubled, 0.5) == balanced_quantile(parts, 0.5)


def test_samples_are_joined_in_order_and_every_block_stays_one():
    found = processes([4.0, 5.0, 6.0])
    joined = of_processes(found).samples
    np.testing.assert_array_equal(
        joined.nanoseconds, np.concatenate([each.samples.nanoseconds for each in found])
    )
    for number, each in enumerate(found):
        here = joined.process == number
        np.testing.assert_array_equal(joined.round[here], each.samples.round)
        assert len(set(joined.block[here])) == len(set(each.samples.block))
    blocks = [set(joined.block[joined.process == number]) for number in range(3)]
    assert not blocks[0] & blocks[1]
    assert not blocks[1] & blocks[2]


def test_tails_are_widened_by_what_processes_differ_and_count_their_calls_as_independent():
    plan = dataclasses.replace(PLAN, first_look=200)
    found = processes([4.0, 4.4, 4.8], noise=0.05, plan=plan)
    calls = np.concatenate([each.samples.kept for each in found])
    joined = of_processes(found)
    p50, p99 = joined.quantiles[0.5], joined.quantiles[0.99]
    ranks = binomial_ranks(int(p99.effective), 0.99, 0.95)
    ordered = np.sort(calls)
    scale = len(calls) / (int(p99.effective) + 1)
    low, high = (ordered[math.ceil(rank * scale) - 1] for rank in ranks)
    assert p99.effective > 368  # none of the three has as many by itself
    assert isinstance(quantile_interval(found[0].samples.kept, 0.99), Insufficient)
    assert p99.value == ordered[math.ceil(0.99 * len(calls)) - 1]
    reach = math.log(p50.high / p50.low) / 2
    own = students([math.log(np.quantile(each.samples.kept, 0.99)) for each in found])
    tails = (own[1] - own[0]) / 2
    up = max(math.hypot(math.log(high / p99.value), reach), tails)
    down = max(math.hypot(math.log(p99.value / low), reach), tails)
    assert math.log(p99.high / p99.value) == pytest.approx(up, rel=1e-3)
    assert math.log(p99.value / p99.low) == pytest.approx(down, rel=1e-3)


def test_tails_that_differ_by_themselves_are_in_the_interval():
    plan = dataclasses.replace(PLAN, first_look=300, max_samples=300)
    found = processes([4.0, 4.0, 4.0], noise=0.02, plan=plan)
    stretched = found[2].samples
    long_tail = np.where(np.arange(stretched.nanoseconds.size) % 20 == 0, 2, 1)
    stretched = dataclasses.replace(stretched, nanoseconds=stretched.nanoseconds * long_tail)
    found[2] = dataclasses.replace(found[2], samples=stretched)
    p50, p99 = (of_processes(found).quantiles[p] for p in (0.5, 0.99))
    assert p50.high / p50.low < 1.05
    own = [math.log(np.quantile(each.samples.kept, 0.99)) for each in found]
    low, high = students(own)
    assert math.log(p99.high / p99.value) >= (high - low) / 2 - 1e-4
    assert p99.high / p99.low > 1.5


def test_levels_of_processes_are_no_dependence_of_calls():
    found = processes([4.0, 5.0, 6.0], noise=0.05)
    together = of_processes(found).quantiles[0.5].effective
    assert together > 0.5 * sum(each.samples.kept.size for each in found)


def drifting() -> Measurement:
    noise = np.exp(0.02 * np.random.default_rng(9).standard_normal(3000))
    times = 1e6 * np.linspace(4.0, 20.0, 3000) * noise
    plan = dataclasses.replace(PLAN, first_look=200, max_samples=200)
    found = measure({"cell": Told(times)}, plan, 1)["cell"]
    assert found.status == "not-stationary"
    return found


def test_one_process_that_drifts_is_one_draw_and_counted():
    joined = of_processes([*processes([4.0, 4.1]), drifting()])
    assert joined.status == "ok"
    assert joined.processes.count == 3
    assert joined.processes.unsteady == 1
    assert joined.drift > 0.1
    assert joined.precision > 0.15


def test_a_cell_that_drifts_in_half_of_its_processes_has_no_latency():
    joined = of_processes([*processes([4.0, 4.1]), drifting(), drifting()])
    assert joined.status == "not-stationary"
    assert "in 2 of 4 processes" in joined.reason
    assert "moved by" in joined.reason
    assert joined.quantiles == {}


class Broken:
    def sample(self, calls, rewarm):
        raise RuntimeError("the library gave up")


def test_a_cell_that_failed_in_one_process_has_failed():
    failed = measure({"cell": Broken()}, PLAN, 1)["cell"]
    joined = of_processes([*processes([4.0, 4.1, 4.2]), failed])
    assert joined.status == "error"
    assert "the library gave up" in joined.reason
    assert str(joined.failure) == "the library gave up"
    assert joined.samples.kept.size == 3 * 60


def test_calls_below_the_clocks_tick_have_the_interval_of_their_order():
    nothing = [measure({"cell": Told([0] * 5000)}, PLAN, n)["cell"] for n in range(3)]
    p50 = of_processes(nothing).quantiles[0.5]
    assert (p50.low, p50.value, p50.high) == (0, 0, 0)


@pytest.mark.parametrize("logs", [[], [1.0], [1.0, 2.0]])
def test_two_processes_are_no_interval(logs):
    with pytest.raises(ValueError, match="needs 3 processes"):
        between(np.array(logs))


def test_a_plan_of_two_processes_is_refused():
    with pytest.raises(InputError, match="1 or at least 3, not 2"):
        MeasurePlan(processes=2)


def test_a_process_has_its_share_of_the_plan():
    plan = MeasurePlan(processes=4, max_seconds=8, patience_s=2, max_samples=1000)
    share = share_of(plan)
    assert (share.processes, share.max_seconds, share.patience_s) == (1, 2.0, 0.5)
    assert (share.min_samples, share.first_look, share.max_samples) == (6, 18, 250)
    assert share_of(MeasurePlan(processes=4, min_samples=30)).min_samples == 8
    assert share_of(MeasurePlan(processes=1)) == MeasurePlan(processes=1)
    # Never less time than a first look takes, never a precision that says nothing.
    least = share_of(MeasurePlan(processes=100, min_seconds=0.3, precision=0.4))
    assert (least.max_seconds, least.precision) == (0.3, 0.5)


@pytest.mark.parametrize("k", [3, 5, 10])
def test_processes_that_differ_by_their_calls_alone_reach_the_precision_together(k):
    """Each median is known to its share of the precision: then so is what they say together, in
    the middle of all cases, but for the median of s being below its mean."""
    share = share_of(MeasurePlan(processes=k, precision=0.02)).precision
    random = np.random.default_rng(k)
    widths = []
    for _ in range(4000):
        low, _, high = between(share / 1.96 * random.standard_normal(k))
        widths.append(((high - low) / 2) ** 2)
    assert math.sqrt(np.mean(widths)) == pytest.approx(0.02, rel=0.03)


def test_intervals_hold_where_processes_differ_and_those_of_one_process_do_not():
    random = np.random.default_rng(5)
    held = {1: 0, 3: 0, 5: 0}
    repeats = 200
    plan = dataclasses.replace(PLAN, first_look=30, max_samples=30, min_samples=30)
    for _ in range(repeats):
        levels = 4.0 * np.exp(0.03 * random.standard_normal(5))
        seeds = random.integers(1 << 30, size=5)
        found = [process(x, 0.01, s, plan) for x, s in zip(levels, seeds, strict=True)]
        for k in held:
            p50 = of_processes(found[:k]).quantiles[0.5]
            held[k] += isinstance(p50, QuantileEstimate) and p50.low <= 4.0e6 <= p50.high
    assert held[1] < 0.3 * repeats
    # 95 % of 200, less three standard deviations.
    assert held[3] >= 181
    assert held[5] >= 181


def pairs(a_levels, b_levels) -> tuple[Measurement, Measurement]:
    """Two cells that took turns in each process."""
    random = np.random.default_rng(7)
    found = []
    for a, b in zip(a_levels, b_levels, strict=True):
        noise = np.exp(0.002 * random.standard_normal((2, 5000)))
        samplers = {"a": Told(1e6 * a * noise[0]), "b": Told(1e6 * b * noise[1])}
        found.append(measure(samplers, PLAN, 1))
    return of_processes([f["a"] for f in found]), of_processes([f["b"] for f in found])


def test_the_ratio_is_that_of_processes_not_of_rounds():
    a_levels, b_levels = [4.0, 4.4, 5.0, 4.2], [2.0, 2.1, 2.6, 2.1]
    ratio = ratio_interval(*pairs(a_levels, b_levels))
    logs = np.log(np.array(a_levels) / b_levels)
    low, high = students(logs)
    assert ratio.processes == 4
    assert ratio.rounds >= 4 * PLAN.min_rounds
    assert math.log(ratio.value) == pytest.approx(logs.mean(), abs=0.002)
    assert math.log(ratio.low) == pytest.approx(low, abs=0.008)
    assert math.log(ratio.high) == pytest.approx(high, abs=0.008)
    over = ratio.turned_over
    assert over.value == pytest.approx(1 / ratio.value)
    assert over.processes == 4


def test_a_slow_process_slows_both_and_leaves_the_ratio():
    ratio = ratio_interval(*pairs([4.0, 8.0, 6.0], [2.0, 4.0, 3.0]))
    assert ratio.value == pytest.approx(2.0, rel=0.003)
    assert ratio.high / ratio.low < 1.015


def test_cells_that_share_two_of_three_processes_have_no_ratio():
    a, b = pairs([4.0, 4.1, 4.2], [2.0, 2.1, 2.2])
    gone = dataclasses.replace(b.samples, warmup=b.samples.warmup | (b.samples.process == 2))
    assert ratio_interval(a, dataclasses.replace(b, samples=gone)) is None
