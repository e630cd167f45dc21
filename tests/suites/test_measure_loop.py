"""The loop on samplers of known behaviour. Their time is virtual: nothing sleeps."""

import math
from itertools import pairwise

import numpy as np
import pytest

from suites.measure.loop import measure
from suites.measure.meters.meter import Seen
from suites.measure.meters.surroundings import Surroundings
from suites.measure.plan import MeasurePlan
from suites.measure.quantiles import Insufficient, QuantileEstimate

PLAN = MeasurePlan()


class Machine:
    """A clock that only its samplers advance, and the order in which they did."""

    def __init__(self):
        self.now = 0.0
        self.turns = []

    def clock(self):
        return self.now

    def sampler(self, name, call_ms, noise=0.0, seed=0, fail_at=None):
        return FakeSampler(self, name, call_ms, noise, seed, fail_at)


class FakeSampler:
    """``call_ms`` is a constant or a function of how many calls were made before."""

    def __init__(self, machine, name, call_ms, noise, seed, fail_at):
        self.machine, self.name, self.noise, self.fail_at = machine, name, noise, fail_at
        self.call_ms = call_ms if callable(call_ms) else lambda made: call_ms
        self.random = np.random.default_rng(seed)
        self.made = 0

    def sample(self, calls, rewarm):
        self.machine.turns.append((self.name, calls, rewarm))
        times = []
        for _ in range(rewarm + calls):
            if self.fail_at is not None and self.made >= self.fail_at:
                raise RuntimeError("the worker died\nwith a long story")
            noise = math.exp(self.noise * self.random.standard_normal())
            times.append(self.call_ms(self.made) * noise * 1e6)
            self.made += 1
        self.machine.now += sum(times) / 1e9
        return np.array(times[rewarm:]).astype(np.int64)


def run(machine, samplers, plan=PLAN, seed=0, **options):
    named = {sampler.name: sampler for sampler in samplers}
    return measure(named, plan, seed, clock=machine.clock, **options)


def one(call_ms, plan=PLAN, noise=0.0, seed=0):
    machine = Machine()
    return run(machine, [machine.sampler("only", call_ms, noise, seed)], plan)["only"]


def rounds_of(machine):
    """The turns after warm-up (those with re-warming calls), cut into rounds of distinct names."""
    rounds, current = [], []
    for name, _, rewarm in machine.turns:
        if rewarm == 0:
            continue
        if name in current:
            rounds.append(current)
            current = []
        current.append(name)
    return [*rounds, current]


@pytest.mark.parametrize(("call_ms", "rewarm"), [(100.0, 1), (15.0, 1), (4.0, 4), (0.5, 30)])
def test_a_turn_is_rewarmed_for_a_time_and_by_one_call_at_least(call_ms, rewarm):
    machine = Machine()
    run(machine, [machine.sampler("only", call_ms, 0.0, 0)], PLAN)
    assert {turn[2] for turn in machine.turns} == {0, rewarm}


def test_every_round_gives_each_live_sampler_one_turn_in_random_order():
    plan = MeasurePlan(first_look=60, min_rounds=30, block_seconds=0.02)
    machine = Machine()
    names = ["a", "b", "c", "d"]
    found = run(
        machine, [machine.sampler(name, 10.0, 0.01, i) for i, name in enumerate(names)], plan
    )
    rounds = rounds_of(machine)
    assert len(rounds) == 30
    assert all(sorted(each) == names for each in rounds)
    orders = {tuple(each) for each in rounds}
    assert len(orders) > 10
    firsts = {each[0] for each in rounds}
    assert firsts == set(names)
    assert list(found) == names


def test_order_of_turns_is_decided_by_the_seed():
    def turns(seed):
        machine = Machine()
        run(machine, [machine.sampler(name, 5.0, 0.02) for name in "abc"], seed=seed)
        return machine.turns

    assert turns(1) == turns(1)
    assert turns(1) != turns(2)


def test_finished_sampler_gets_no_more_turns_while_the_others_go_on():
    machine = Machine()
    found = run(
        machine, [machine.sampler("calm", 10.0, 0.001), machine.sampler("noisy", 10.0, 0.06, 1)]
    )
    kept = {name: len(result.samples.kept) for name, result in found.items()}
    assert kept["calm"] < kept["noisy"]
    last_calm = max(i for i, turn in enumerate(machine.turns) if turn[0] == "calm")
    assert {turn[0] for turn in machine.turns[last_calm + 1 :]} == {"noisy"}


def test_constant_calls_are_known_exactly_at_the_first_look():
    found = one(10.0)
    assert (found.status, found.stopped_by, found.reason) == ("ok", "precision", "")
    assert found.quantiles[0.5].value == found.minimum_ns == 10_000_000
    assert (found.precision, found.mad_ns) == (0.0, 0.0)
    assert len(found.looks) == 1
    assert found.samples.round.max() + 1 >= PLAN.min_rounds


def test_p99_is_insufficient_while_p50_is_known():
    found = one(10.0, noise=0.02)
    assert isinstance(found.quantiles[0.5], QuantileEstimate)
    assert isinstance(found.quantiles[0.99], Insufficient)
    assert found.quantiles[0.99].needed == 368


@pytest.mark.parametrize("noise", [0.01, 0.03, 0.06])
def test_noisy_calls_stop_at_the_asked_precision_around_the_truth(noise):
    found = one(3.0, noise=noise, seed=4)
    p50 = found.quantiles[0.5]
    assert found.stopped_by == "precision"
    assert found.precision <= PLAN.precision
    assert p50.low <= 3e6 <= p50.high
    kept = found.samples.kept
    assert found.minimum_ns == kept.min()
    assert found.mad_ns == np.median(np.abs(kept - np.median(kept)))


def test_default_plan_spends_about_a_second_on_a_quiet_cell():
    for call_ms in (3.0, 10.0, 20.0):
        found = one(call_ms, noise=0.02, seed=1)
        assert found.stopped_by == "precision"
        assert found.samples.nanoseconds.sum() / 1e9 < 1.2


def test_spikes_move_the_median_by_less_than_the_precision():
    random = np.random.default_rng(5)
    found = one(lambda made: 10.0 * (1.5 if random.random() < 0.05 else 1.0), noise=0.01)
    assert found.quantiles[0.5].value == pytest.approx(10e6, rel=0.01)


def test_two_modes_give_an_interval_that_spans_both_until_the_budget_ends():
    random = np.random.default_rng(6)
    plan = MeasurePlan(max_seconds=2.0)
    found = one(lambda made: 10.0 if random.random() < 0.5 else 14.0, plan, noise=0.002)
    assert (found.status, found.stopped_by) == ("ok", "time")
    assert found.quantiles[0.5].low < 10.2e6
    assert found.quantiles[0.5].high > 13.8e6
    assert found.precision > 0.1


def test_slow_warm_up_is_thrown_away_and_counted():
    found = one(lambda made: 10.0 + 30.0 * math.exp(-made / 8), noise=0.01)
    assert found.status == "ok"
    # After 30 calls the excess is below 7 %; within a window of six it still falls by half.
    assert found.warmup_calls >= 30
    assert found.warmup_seconds == pytest.approx(
        found.samples.nanoseconds[found.samples.warmup].sum() / 1e9
    )
    assert found.quantiles[0.5].value == pytest.approx(10e6, rel=0.01)
    samples = found.samples
    assert samples.warmup[: found.warmup_calls].all()
    assert not samples.warmup[found.warmup_calls :].any()
    assert (samples.round[samples.warmup] == -1).all()


def test_first_call_that_compiles_is_on_no_budget():
    found = one(lambda made: 20_000.0 if made == 0 else 10.0, noise=0.01)
    assert found.status == "ok"
    assert found.warmup_seconds > 20
    assert found.quantiles[0.5].value == pytest.approx(10e6, rel=0.01)


def test_no_steady_state_within_the_warm_up_is_not_stationary():
    found = one(lambda made: 5.0 * 1.05**made, MeasurePlan(max_warmup_s=2.0))
    assert (found.status, found.stopped_by) == ("not-stationary", "no-steady-state")
    assert "max_warmup_s" in found.reason
    assert found.quantiles == {}
    assert found.minimum_ns is None
    assert math.isinf(found.precision)


def test_drift_during_the_measurement_is_not_stationary_instead_of_a_number():
    found = one(lambda made: 10.0 * (1 + made / 400), noise=0.03, seed=2)
    assert found.status == "not-stationary"
    assert found.quantiles == {}
    assert "first to the last third" in found.reason
    assert len(found.samples.kept) > PLAN.first_look


def test_drift_seen_early_is_forgiven_when_more_samples_outweigh_it():
    # The warm-up has agreed by then; calls 13 to 29 are a last slow phase.
    found = one(lambda made: 11.5 if 12 < made < 30 else 10.0, noise=0.004)
    assert found.looks[0].drift.significant or found.looks[0].precision > PLAN.precision
    assert found.status == "ok"
    assert found.quantiles[0.5].value == pytest.approx(10e6, rel=0.02)


def test_budget_ends_a_noisy_cell_with_the_precision_it_reached():
    found = one(20.0, MeasurePlan(max_seconds=1.0), noise=0.3)
    assert (found.status, found.stopped_by) == ("ok", "time")
    assert PLAN.precision < found.precision < math.inf
    spent = sum(found.samples.nanoseconds[~found.samples.warmup]) / 1e9
    assert 0.8 < spent < 1.5


@pytest.mark.parametrize(("run", "again"), [(4, True), (12, False)])
def test_cell_without_an_interval_gets_its_time_once_more_where_that_may_help(run, again):
    """Calls come in runs of fast and slow: the longer, the fewer independent ones they make."""

    def in_runs(made):
        return 10.0 if np.random.default_rng(made // run).random() < 0.5 else 14.0

    plan = MeasurePlan(max_seconds=1.0, min_warmup_s=0.0, drift_tolerance=0.9, rewarm_seconds=0.0)
    found = one(in_runs, plan)
    assert found.stopped_by == "time"
    spent = sum(found.samples.nanoseconds[~found.samples.warmup]) / 1e9
    assert spent == pytest.approx(1.75 if again else 0.92, abs=0.15)
    assert isinstance(found.quantiles[0.5], QuantileEstimate if again else Insufficient)
    if again:
        # Looked at when the first budget was used up, in vain.
        assert math.isinf(found.looks[-2].precision)


def test_slow_calls_get_the_fewest_samples_even_beyond_the_budget():
    found = one(900.0, noise=0.01)
    assert found.status == "ok"
    assert len(found.samples.kept) == PLAN.min_samples
    assert found.stopped_by in ("precision", "time")


def test_samples_are_capped_when_the_noise_is_endless():
    found = one(0.5, MeasurePlan(max_samples=500), noise=0.5)
    assert (found.stopped_by, len(found.samples.kept)) == ("samples", 500)


def test_looks_happen_only_at_the_planned_sizes():
    found = one(1.0, MeasurePlan(min_seconds=0.0, precision=0.005), noise=0.03)
    sizes = [look.samples for look in found.looks]
    assert sizes[:5] == [32, 48, 72, 108, 162]


def test_very_fast_calls_last_the_minimum_time_before_the_first_look():
    found = one(0.01, noise=0.02)
    assert found.looks[0].samples >= PLAN.min_seconds / 11e-6
    assert found.samples.round.max() + 1 >= PLAN.min_rounds


@pytest.mark.parametrize("fail_at", [0, 5, 60])
def test_raising_sampler_ends_alone_and_keeps_its_samples(fail_at):
    machine = Machine()
    found = run(
        machine,
        [
            machine.sampler("good", 10.0, 0.05),
            machine.sampler("bad", 10.0, 0.3, 1, fail_at=fail_at),
        ],
    )
    bad = found["bad"]
    assert found["good"].status == "ok"
    assert (bad.status, bad.stopped_by) == ("error", "failure")
    assert bad.reason == "RuntimeError: the worker died"
    assert isinstance(bad.failure, RuntimeError)
    assert bad.quantiles == {}
    assert len(bad.samples.nanoseconds) <= fail_at


def test_interrupt_is_not_kept_as_a_failure():
    class Interrupted:
        def sample(self, calls, rewarm):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure({"a": Interrupted()}, PLAN, 0)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda calls: np.ones(calls + 1, np.int64), "ValueError: asked for 1 samples"),
        (lambda calls: np.full(calls, -5), "ValueError: the clock went backwards"),
    ],
)
def test_sampler_that_answers_nonsense_is_a_failure(answer, reason):
    class Liar:
        def sample(self, calls, rewarm):
            return answer(calls)

    assert measure({"a": Liar()}, PLAN, 0)["a"].reason.startswith(reason)


def test_samples_columns_are_equally_long_and_typed():
    samples = one(10.0, noise=0.02).samples
    columns = [samples.nanoseconds, samples.warmup, samples.block, samples.round, samples.disturbed]
    assert len({len(column) for column in columns}) == 1
    assert [str(c.dtype) for c in columns] == ["int64", "bool", "int32", "int32", "bool"]
    assert (np.diff(samples.block) >= 0).all()


class Neighbour:
    """Others use ``cores`` cores between two given moments of the machine."""

    name, covers = "load", "the machine's fake time"

    def __init__(self, machine, cores, start, end):
        self.machine, self.cores, self.start, self.end = machine, cores, start, end

    def read(self):
        return self.cores * (min(max(self.machine.now, self.start), self.end) - self.start)

    def between(self, before, after, seconds):
        used = (after - before) / seconds
        return Seen({"machine_others_cores": used}, ("load",) if used > 0.25 else ())


def test_disturbed_blocks_are_marked_kept_and_counted_with_their_cause():
    machine = Machine()
    around = Surroundings([Neighbour(machine, cores=1.0, start=0.35, end=0.5)])
    sampler = machine.sampler("a", 10.0, 0.01)
    found = run(machine, [sampler], surroundings={"a": around})["a"]
    samples, conditions = found.samples, found.conditions
    kept = samples.disturbed[~samples.warmup]
    assert 0 < conditions.disturbed_calls == kept.sum() < len(samples.kept)
    assert conditions.disturbed_by == {"load": conditions.disturbed_calls}
    assert set(samples.cause[samples.disturbed]) == {"load"}
    assert set(samples.cause[~samples.disturbed]) == {""}
    kept_seconds = machine.now - found.warmup_seconds
    assert 0.05 < conditions.figures["machine_others_cores"] * kept_seconds <= 0.15 + 1e-9


def test_a_quiet_neighbour_disturbs_nothing_and_is_told():
    machine = Machine()
    around = Surroundings([Neighbour(machine, 0.1, 0, 9)])
    found = run(machine, [machine.sampler("a", 10.0, 0.01)], surroundings={"a": around})["a"]
    assert (found.conditions.disturbed_calls, found.conditions.disturbed_by) == (0, {})
    assert found.conditions.figures["machine_others_cores"] == pytest.approx(0.1)


def test_disturbance_is_unknown_without_meters():
    conditions = one(10.0).conditions
    assert (conditions.disturbed_calls, conditions.disturbed_by) == (None, None)
    assert conditions.figures == {}


def test_meters_are_read_before_and_after_a_block_and_never_during_it():
    machine = Machine()
    sampler = machine.sampler("a", 10.0, 0.01)
    order = []

    class Recorder(Neighbour):
        def read(self):
            order.append(("read", machine.now))
            return super().read()

    timed = sampler.sample

    def sample(calls, rewarm):
        start = machine.now
        result = timed(calls, rewarm)
        order.append(("block", start, machine.now))
        return result

    sampler.sample = sample
    around = Surroundings([Recorder(machine, 0.1, 0, 9)])
    order.clear()  # whether it can be read, and how fast
    run(machine, [sampler], surroundings={"a": around})
    assert len(order) % 3 == 0
    for before, block, after in zip(order[::3], order[1::3], order[2::3], strict=True):
        assert before == ("read", block[1])
        assert after == ("read", block[2])


def test_progress_grows_and_ends_finished():
    machine = Machine()
    seen = []
    samplers = {"a": machine.sampler("a", 10.0, 0.08)}
    measure(samplers, PLAN, 0, seen.append, clock=machine.clock)
    assert seen[0].phase == "warm-up"
    assert seen[-1].phase == "finished"
    assert seen[-1].fraction == 1.0
    assert all(0 <= p.fraction <= 1 for p in seen)
    assert all(a.kept <= b.kept and a.fraction <= b.fraction for a, b in pairwise(seen))


def test_nothing_to_measure_gives_nothing():
    assert measure({}, PLAN, 0) == {}
