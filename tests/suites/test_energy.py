"""Energy from a ``/sys/class/powercap`` made by hand, and from counters that misbehave."""

from __future__ import annotations

from pathlib import Path

import pytest

from suites import rows
from suites.measure.energy import Energy, Power, energy_meters
from suites.measure.meters.meter import Seen, Unreadable, why_not
from suites.measure.meters.rapl import Rapl
from suites.suite_file import Workload

RANGE = 1_000_000_000


def zone(root: Path, name: str, label: str, energy_uj: int | str) -> Path:
    folder = root / "sys/class/powercap" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(f"{label}\n")
    (folder / "energy_uj").write_text(f"{energy_uj}\n")
    (folder / "max_energy_range_uj").write_text(f"{RANGE}\n")
    return folder


def server(root: Path) -> None:
    """Two packages as a server has them, and what would count the same joules twice."""
    zone(root, "intel-rapl:0", "package-0", 1_000_000)
    zone(root, "intel-rapl:0:0", "core", 500_000)
    zone(root, "intel-rapl:0:1", "dram", 100_000)
    zone(root, "intel-rapl:1", "package-1", RANGE - 1_000_000)
    zone(root, "intel-rapl:2", "psys", 9_000_000)
    zone(root, "intel-rapl-mmio:0", "package-0", 1_000_000)


def test_rapl_adds_packages_and_their_memory_and_nothing_twice(tmp_path: Path) -> None:
    server(tmp_path)
    meter = Rapl(tmp_path)
    assert meter.source == "rapl: package-0, package-0 dram, package-1"
    before = meter.read()
    zone(tmp_path, "intel-rapl:0", "package-0", 3_500_000)
    zone(tmp_path, "intel-rapl:0:1", "dram", 600_000)
    zone(tmp_path, "intel-rapl:0:0", "core", 900_000_000)
    zone(tmp_path, "intel-rapl:1", "package-1", 2_000_000)  # it began again at zero
    assert meter.between(before, meter.read(), 1.0).figures["energy_j"] == 2.5 + 0.5 + 3.0


def test_rapl_says_why_it_is_not_there(tmp_path: Path) -> None:
    assert "no intel-rapl zone" in why_not(Rapl(tmp_path))
    folder = zone(tmp_path, "intel-rapl:0", "package-0", 5)
    (folder / "energy_uj").unlink()
    assert why_not(Rapl(tmp_path)) == f"{folder}/energy_uj: no such file or directory"
    (folder / "energy_uj").write_text("a lot")
    assert "holds no number: 'a lot'" in why_not(Rapl(tmp_path))


class Counter:
    """A meter whose joules the test sets; None for one that does not answer."""

    name, covers, period_s = "counter", "all", 0.05

    def __init__(self, joules: float | None, source: str = "counter") -> None:
        self.joules, self.source = joules, source

    def read(self) -> float:
        if self.joules is None:
            raise Unreadable(f"{self.source} is broken")
        return self.joules

    def between(self, before: float, after: float, seconds: float) -> Seen:
        return Seen({"energy_j": after - before})


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_power_is_the_joules_of_all_counters_over_the_time_of_the_work() -> None:
    clock = Clock()
    gpu, package = Counter(10.0, "gpu"), Counter(500.0, "package")
    energy = Energy([gpu, package], clock)

    def work() -> str:
        gpu.joules, package.joules = 40.0, 510.0
        clock.now += 2.0
        return "done"

    assert energy.during(work) == ("done", Power(20.0, "gpu + package"))
    assert energy.min_seconds == 1.0


def test_a_package_without_its_gpu_is_no_answer() -> None:
    energy = Energy([Counter(None, "gpu"), Counter(500.0, "package")])
    done, power = energy.during(lambda: "done")
    assert (done, power.watts, power.source) == ("done", None, "")
    assert power.absent == "counter: gpu is broken"


def test_a_gpu_without_its_package_says_what_is_missing() -> None:
    clock = Clock()
    gpu = Counter(0.0, "gpu")
    energy = Energy([gpu, Counter(None, "package")], clock)

    def work() -> None:
        gpu.joules = 6.0
        clock.now = 3.0

    assert energy.during(work)[1] == Power(2.0, "gpu", "counter: package is broken")


@pytest.mark.parametrize("when", ["before", "during"])
def test_a_counter_that_fails_later_is_absent_and_the_work_is_done(when: str) -> None:
    counter = Counter(1.0)
    energy = Energy([counter])
    if when == "before":
        counter.joules = None

    def work() -> str:
        counter.joules = None
        return "done"

    assert energy.during(work) == ("done", Power(None, absent="counter is broken"))


def test_no_counter_costs_no_time_and_is_null_in_the_row_with_its_reason(tmp_path: Path) -> None:
    energy = Energy(energy_meters("cpu", tmp_path))
    slept: list[float] = []
    idle = energy.idle(slept.append)
    _, power = energy.during(lambda: None)
    assert (slept, energy.min_seconds) == ([], 0.0)
    row = rows.energy(power, idle, 100.0, Workload(batch=4))
    assert row["energy_j_per_sample"] is None
    assert row["energy_idle_w"] is None
    assert "no intel-rapl zone" in row["energy_absent"]


def test_energy_of_an_example_is_power_over_the_examples_of_a_second() -> None:
    idle = Power(5.0, "rapl: package-0")
    row = rows.energy(Power(30.0, "rapl: package-0"), idle, 50.0, Workload(batch=4))
    assert row == {
        "energy_j_per_sample": 0.15,  # 30 J in a second, for 50 calls of 4 examples
        "energy_power_w": 30.0,
        "energy_idle_w": 5.0,
        "energy_source": "rapl: package-0",
        "energy_absent": None,
    }


def test_idle_power_is_taken_over_at_least_a_quarter_of_a_second() -> None:
    clock = Clock()
    counter = Counter(0.0)
    energy = Energy([counter], clock)

    def sleep(seconds: float) -> None:
        clock.now += seconds
        counter.joules += 4.0 * seconds

    assert energy.idle(sleep).watts == pytest.approx(4.0)
    assert clock.now == 1.0  # twenty periods of 50 ms
