"""What a cell's blocks say together of the machine around them, by meters of known readings."""

from __future__ import annotations

import numpy as np
import pytest

from reports.columns import BY_NAME
from suites.measure.block import Block, conditions_of, samples_of
from suites.measure.meters.meter import Seen, Unreadable
from suites.measure.meters.surroundings import FIGURES, Surroundings, pooled


class Scripted:
    """Answers with the given readings in turn; None is one that fails."""

    covers = "nothing"

    def __init__(self, name, readings, seen=None, took=0.0, clock=None):
        self.name, self.readings, self.seen = name, list(readings), seen
        self.took, self.clock = took, clock

    def read(self):
        if self.clock:
            self.clock.now += self.took
        reading = self.readings.pop(0) if len(self.readings) > 1 else self.readings[0]
        if reading is None:
            raise Unreadable("no answer today")
        return reading

    def between(self, before, after, seconds):
        return self.seen or Seen({"machine_others_cores": (after - before) / seconds}, ())


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_meter_that_cannot_be_read_is_left_out_with_its_reason():
    around = Surroundings([Scripted("broken", [None]), Scripted("whole", [1])])
    assert around.absent == {"broken": "no answer today"}
    assert around.read() == [1]


def test_a_meter_that_takes_too_long_is_left_out():
    clock = Clock()
    slow = Scripted("slow", [1], took=0.011, clock=clock)
    fast = Scripted("fast", [1], took=0.0001, clock=clock)
    around = Surroundings([slow, fast], clock)
    assert around.absent == {"slow": "a reading takes 11.0 ms here, more than 9 ms"}


def test_a_meter_that_fails_once_leaves_that_block_unknown_and_the_others_known():
    # Four readings are taken before the first block: one to see whether, three to see how fast.
    meter = Scripted("load", [0, 0, 0, 0, 10, None, 20, 21])
    around = Surroundings([meter])
    assert around.seen(around.read(), 1.0) == Seen({}, None)
    assert around.seen(around.read(), 2.0) == Seen({"machine_others_cores": 0.5}, ())


def test_causes_of_several_meters_are_joined_and_unknown_is_not_nothing():
    hot = Scripted("a", [1], Seen({"machine_throttle_events": 2}, ("throttled",)))
    calm = Scripted("b", [1], Seen({}, ()))
    mute = Scripted("c", [1], Seen({"machine_temperature_c": 50.0}))
    assert Surroundings([hot, calm]).seen([1, 1], 1.0).causes == ("throttled",)
    assert Surroundings([calm, mute]).seen([1, 1], 1.0).causes == ()
    assert Surroundings([mute]).seen([1], 1.0).causes is None


def test_every_figure_is_a_column_and_is_pooled_in_its_own_way():
    assert FIGURES.keys() <= BY_NAME.keys()
    seen = [
        Seen({"machine_others_cores": 1.0, "machine_frequency_mhz": 3000.0}),
        Seen({"machine_others_cores": 0.0, "machine_frequency_mhz": 2000.0}),
        Seen({"machine_throttle_events": 3, "machine_gpu_power_cap_w": 700.0}),
        Seen({"machine_throttle_events": 4, "machine_gpu_power_cap_w": 500.0}),
        Seen({"machine_temperature_c": 70.0}),
        Seen({"machine_temperature_c": 90.0, "machine_frequency_mhz": 2900.0}),
    ]
    assert pooled(seen, [1.0, 3.0, 1.0, 1.0, 1.0, 1.0]) == {
        "machine_others_cores": 0.25,  # by time
        "machine_frequency_mhz": 2900.0,
        "machine_throttle_events": 7.0,
        "machine_temperature_c": 90.0,
        "machine_gpu_power_cap_w": 500.0,
    }


def block(calls, round_number, causes=(), mhz=None, seconds=1.0):
    figures = {} if mhz is None else {"machine_frequency_mhz": mhz}
    return Block(np.full(calls, 5), seconds, round_number, Seen(figures, causes))


def test_a_clock_that_fell_behind_the_cells_own_blocks_marks_the_block():
    clocks = [3000, 3000, 2950, 2600, 3050]
    blocks = [block(2, -1, mhz=2000), *(block(3, n, mhz=m) for n, m in enumerate(clocks))]
    found = conditions_of(blocks)
    assert (found.disturbed_calls, found.disturbed_by) == (3, {"frequency": 3})
    samples = samples_of(blocks)
    assert list(samples.cause) == ["frequency"] * 2 + [""] * 9 + ["frequency"] * 3 + [""] * 3
    assert samples.disturbed.sum() == 5
    assert samples.warmup.sum() == 2


def test_one_fast_reading_does_not_condemn_all_others():
    blocks = [block(1, n, mhz=2000) for n in range(9)] + [block(1, 9, mhz=4000)]
    assert conditions_of(blocks).disturbed_calls == 0


def test_a_block_with_two_causes_counts_once_in_the_sum_and_for_each_cause():
    blocks = [block(4, 0), block(5, 1, ("load", "throttled")), block(6, 2, ("load",))]
    found = conditions_of(blocks)
    assert found.disturbed_calls == 11
    assert found.disturbed_by == {"load": 11, "throttled": 5}
    assert samples_of(blocks).cause[4] == "load + throttled"


@pytest.mark.parametrize("unknown", [0, 1])
def test_one_block_of_which_nothing_is_known_leaves_the_count_unknown(unknown):
    blocks = [block(4, 0), block(5, 1, ("load",))]
    blocks[unknown] = block(1, unknown, None)
    assert conditions_of(blocks).disturbed_calls is None


def test_without_blocks_nothing_is_known():
    assert conditions_of([]).disturbed_calls is None
    assert samples_of([]).disturbed.shape == (0,)
