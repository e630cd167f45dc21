"""The yardstick, the meter that it is, and the patience that rests on it."""

import json
import math
import time

import numpy as np
import pytest

from suites.measure.loop import measure
from suites.measure.meters.meter import Unreadable
from suites.measure.meters.speed import FEWEST_READINGS, REMEMBERED_RUNS, SLOW, Speed, Yardstick
from suites.measure.patience import PAUSE_S, Patience
from suites.measure.plan import MeasurePlan


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "yardstick.json"
    path.write_text(json.dumps([[100.0, 40.0], [120.0, 50.0]]))
    return path


def test_reading_has_the_time_of_either_piece_and_all_threads_take_part():
    reading = Yardstick(threads=3).read()
    assert reading.shape == (2,)
    assert (reading > 1000).all()  # more than a microsecond each: the work is really done


def test_speed_is_that_of_the_piece_that_suffers_most_against_the_run_in_the_middle(file):
    file.write_text(json.dumps([[90.0, 10.0], [100.0, 40.0], [700.0, 60.0]]))
    yardstick = Yardstick(2, file)
    assert yardstick.speed(np.array([100.0, 40.0])) == 1.0
    assert yardstick.speed(np.array([100.0, 80.0])) == 0.5
    assert yardstick.speed(np.array([400.0, 80.0])) == 0.25


def test_speed_is_unknown_until_a_run_has_seen_enough_by_itself():
    yardstick = Yardstick(1)
    assert math.isnan(yardstick.last)
    for _ in range(FEWEST_READINGS - 1):
        yardstick.read()
    assert math.isnan(yardstick.last)
    with pytest.raises(Unreadable, match="not known yet"):
        Speed(yardstick).between(np.ones(2), np.ones(2), 0.1)
    yardstick.read()
    assert yardstick.last > 0


def test_what_a_run_saw_is_remembered_for_the_next_ones_and_forgotten_in_the_end(file):
    for _ in range(2):
        yardstick = Yardstick(1, file)
        for _ in range(FEWEST_READINGS):
            yardstick.read()
        yardstick.remember()
    kept = json.loads(file.read_text())
    assert kept[:2] == [[100.0, 40.0], [120.0, 50.0]]
    assert len(kept) == 4
    file.write_text(json.dumps([[1.0, 1.0], *[[9.0, 9.0]] * (REMEMBERED_RUNS - 1)]))
    yardstick = Yardstick(1, file)
    for _ in range(FEWEST_READINGS):
        yardstick.read()
    yardstick.remember()
    kept = json.loads(file.read_text())
    assert len(kept) == REMEMBERED_RUNS
    assert [1.0, 1.0] not in kept


def test_a_run_that_saw_little_leaves_no_word(file):
    before = file.read_text()
    yardstick = Yardstick(1, file)
    yardstick.read()
    yardstick.remember()
    assert file.read_text() == before


@pytest.mark.parametrize("text", ["", "{", "[[1]]", "[[1, 0]]", '["a"]', "7"])
def test_a_damaged_memory_is_none(tmp_path, text):
    path = tmp_path / "yardstick.json"
    path.write_text(text)
    assert math.isnan(Yardstick(1, path).speed(np.ones(2)))


def test_a_block_is_disturbed_where_the_machine_was_slow_at_either_end(file):
    file.write_text("[[100.0, 40.0]]")
    meter = Speed(Yardstick(1, file))
    own, slow = np.array([100.0, 40.0]), np.array([100.0, 40.0]) / (SLOW - 0.01)
    assert meter.between(own, own, 0.1).causes == ()
    for ends in ((own, slow), (slow, own)):
        seen = meter.between(*ends, 0.1)
        assert seen.causes == ("speed",)
        assert seen.figures["machine_speed"] == pytest.approx(SLOW - 0.01)


class Machine:
    """A yardstick whose readings are known, and a clock that only pauses move."""

    def __init__(self, *speeds):
        self.speeds = list(speeds)
        self.now = 0.0

    @property
    def last(self):
        return self.speeds[0]

    def read(self, counts):
        assert not counts
        del self.speeds[0]

    def patience(self, seconds):
        return Patience(self, seconds, clock=lambda: self.now, sleep=self.pause)

    def pause(self, seconds):
        self.now += seconds


def test_patience_waits_until_the_machine_is_itself_again():
    machine = Machine(0.5, 0.6, 0.5, 0.98, 0.4)
    patience = machine.patience(10)
    patience()
    assert machine.speeds == [0.98, 0.4]
    assert patience.waited_s == pytest.approx(3 * PAUSE_S)
    patience()  # it is itself: no reading, no wait
    assert machine.speeds == [0.98, 0.4]


def test_patience_ends_and_is_of_all_turns_together():
    machine = Machine(*[0.5] * 100)
    patience = machine.patience(4 * PAUSE_S)
    patience()
    assert patience.waited_s == pytest.approx(4 * PAUSE_S)
    left = len(machine.speeds)
    patience()
    assert len(machine.speeds) == left


@pytest.mark.parametrize("speed", [math.nan, SLOW, 1.2])
def test_patience_is_not_asked_for_where_nothing_is_known_to_be_slow(speed):
    machine = Machine(speed)
    patience = machine.patience(10)
    patience()
    assert patience.waited_s == 0.0
    Patience(None, 10)()


def test_every_block_may_be_put_off():
    order = []

    class Call:
        def sample(self, calls, rewarm):
            order.append("block")
            return np.full(calls, 10_000_000)

    now = iter(np.arange(0, 1e6, 0.05))
    measure(
        {"a": Call(), "b": Call()},
        MeasurePlan(),
        0,
        patience=lambda: order.append("patience"),
        clock=lambda: float(next(now)),
    )
    asked = [place for place, word in enumerate(order) if word == "patience"]
    # Once before each cell's warm-up, then before each turn.
    turns = order[asked[2] :]
    assert len(turns) >= 2 * 2 * MeasurePlan().min_rounds
    assert turns == ["patience", "block"] * (len(turns) // 2)


def test_a_core_that_was_taken_away_ends_no_run_and_holds_none_up(file, monkeypatch):
    yardstick = Yardstick(2, file)
    allowed = yardstick.read()

    def refused(pid, cpus):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr("os.sched_setaffinity", refused)
    with pytest.raises(Unreadable, match="Invalid argument"):
        yardstick.read()
    monkeypatch.undo()
    assert (yardstick.read() > allowed / 100).all()


def test_a_thread_that_waits_for_others_too_long_makes_the_reading_unreadable(file, monkeypatch):
    monkeypatch.setattr("suites.measure.meters.speed.TOGETHER_S", 0.05)
    yardstick = Yardstick(2, file)
    if len(yardstick._places) < 2:
        pytest.skip("one core has nobody to wait for")
    late = yardstick._places[1][1]
    yardstick._places[1] = (yardstick._places[1][0], (late[0], lambda: time.sleep(0.3)))
    with pytest.raises(Unreadable, match="too late"):
        yardstick.read()


def test_patience_ends_where_nothing_says_how_fast_the_machine_is(file, monkeypatch):
    yardstick = Yardstick(1, file)
    yardstick._last = np.array([1e9, 1e9])  # slow
    monkeypatch.setattr(yardstick, "read", _unreadable)
    patience = Patience(yardstick, 60.0)
    patience()
    assert patience.waited_s < 1


def _unreadable(counts=True):
    raise Unreadable("no core")
