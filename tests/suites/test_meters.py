"""Every meter on a ``/proc`` and ``/sys`` made by hand: as they should be, and hostile."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from suites.measure.meters import kernel
from suites.measure.meters.frequency import Frequency
from suites.measure.meters.load import TICK_SECONDS, OtherLoad
from suites.measure.meters.meter import Unreadable, why_not
from suites.measure.meters.pressure import Pressure
from suites.measure.meters.scheduling import Scheduling
from suites.measure.meters.surroundings import meters
from suites.measure.meters.temperature import Temperature
from suites.measure.meters.throttling import Throttling

WORKER = 4242
Tree = Callable[[Mapping[str, str]], Path]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Writes files below a root folder, and gives it."""

    def write(files: Mapping[str, str]) -> Path:
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return tmp_path

    return write


def stat(user: int, system: int, name: str = "python") -> str:
    return f"1 ({name}) S 1 1 1 0 -1 0 0 0 0 0 {user} {system} 0 0 20 0 1 0 0 0 0"


def busy(cpu: str, worker: str, own: str = stat(0, 0)) -> dict[str, str]:
    """``cpu`` is user nice system idle iowait irq softirq steal guest guest_nice."""
    return {
        "proc/stat": f"cpu  {cpu}\ncpu0 1 2 3\n",
        f"proc/{WORKER}/stat": worker,
        f"proc/{os.getpid()}/stat": own,
    }


def test_others_are_all_that_is_busy_less_the_worker_and_this_process(tree: Tree) -> None:
    root = tree(busy("1000 10 200 9999 888 3 4 5 77 0", stat(600, 50), stat(20, 2)))
    load = OtherLoad([WORKER], 0.25, root).read()
    assert load.others == pytest.approx((1222 - 650 - 22) * TICK_SECONDS)
    assert load.stolen == pytest.approx(5 * TICK_SECONDS)


def test_a_worker_named_with_parentheses_and_spaces_is_read_right(tree: Tree) -> None:
    root = tree(busy("100 0 0 0 0 0 0 0 0 0", stat(30, 0, name="a) S (b 9 9")))
    assert OtherLoad([WORKER], 0.25, root).read().others == pytest.approx(70 * TICK_SECONDS)


@pytest.mark.parametrize(
    ("ticks", "disturbed"), [(12, False), (13, True), (-500, False)], ids=["at", "over", "fell"]
)
def test_a_block_is_disturbed_by_load_beyond_the_share_and_the_tick_error(
    tree: Tree, ticks: int, disturbed: bool
) -> None:
    """A quarter of a core in 0.4 s is 10 ticks of 10 ms, and two more are forgiven."""
    assert TICK_SECONDS == 0.01
    meter = OtherLoad([WORKER], 0.25, tree(busy("1000 0 0 0 0 0 0 9 0 0", stat(10, 0))))
    before = meter.read()
    tree(busy(f"{1000 + ticks} 0 0 0 0 0 0 9 0 0", stat(10, 0)))
    seen = meter.between(before, meter.read(), 0.4)
    assert seen.causes == (("load",) if disturbed else ())
    assert seen.figures["machine_others_cores"] == pytest.approx(max(ticks, 0) * 0.01 / 0.4)
    assert seen.figures["machine_steal_cores"] == 0.0


def thread(voluntary: int, forced: int, delayed_ns: str) -> dict[str, str]:
    return {
        "status": f"Name:\tx\nvoluntary_ctxt_switches:\t{voluntary}\n"
        f"nonvoluntary_ctxt_switches:\t{forced}\n",
        "schedstat": delayed_ns,
    }


def threads(**counts: dict[str, str]) -> dict[str, str]:
    return {
        f"proc/{WORKER}/task/{name[1:]}/{file}": text
        for name, files in counts.items()
        for file, text in files.items()
    }


def test_scheduling_adds_up_the_threads_that_lived_through_the_block(tree: Tree) -> None:
    root = tree(threads(t1=thread(10, 2, "9 1000000 3\n"), t2=thread(5, 0, "9 0 3\n")))
    meter = Scheduling(WORKER, root)
    before = meter.read()
    tree(
        threads(
            t1=thread(14, 5, "9 51000000 3\n"),
            t2=thread(5, 1, "9 50000000 3\n"),
            t3=thread(900, 900, "9 900000000 3\n"),  # began in between
        )
    )
    assert meter.between(before, meter.read(), 0.5).figures == {
        "machine_switches_per_s": 8.0,
        "machine_preemptions_per_s": 8.0,
        "machine_waiting_cores": pytest.approx(0.2),
    }


def test_scheduling_goes_on_without_schedstat_and_with_a_thread_that_is_garbage(tree: Tree) -> None:
    root = tree(
        {
            **threads(t1=thread(1, 1, "no numbers"), t2=thread(1, 1, "")),
            f"proc/{WORKER}/task/2/status": "\x00\xff garbage",
        }
    )
    meter = Scheduling(WORKER, root)
    assert list(meter.read()) == ["1"]
    assert meter.between(meter.read(), meter.read(), 1.0).figures == {
        "machine_switches_per_s": 0.0,
        "machine_preemptions_per_s": 0.0,
    }


def test_pressure_is_the_share_of_time_in_which_somebody_waited(tree: Tree) -> None:
    line = "some avg10=0.00 avg60=0.00 avg300=1.10 total={}\nfull avg10=0.00 total=0\n"
    root = tree({"proc/pressure/cpu": line.format(1_000_000)})
    meter = Pressure(root)
    before = meter.read()
    tree({"proc/pressure/cpu": line.format(1_500_000)})
    assert meter.between(before, meter.read(), 2.0).figures == {"machine_pressure": 0.25}
    with pytest.raises(Unreadable, match="fell"):
        meter.between(meter.read(), before, 2.0)


def test_frequency_is_that_of_the_fastest_usable_cpu(tree: Tree) -> None:
    cpus = {0: 1_200_000, 1: 3_400_000, 2: 5_000_000}
    root = tree(
        {
            f"sys/devices/system/cpu/cpu{n}/cpufreq/scaling_cur_freq": f"{kilohertz}\n"
            for n, kilohertz in cpus.items()
        }
    )
    assert Frequency(root, cpus=[0, 1]).read() == 3400.0


def test_frequency_comes_from_cpuinfo_where_there_is_no_cpufreq(tree: Tree) -> None:
    info = "flags : fpu sse\ncpu MHz\t\t: 1200.5\n\ncpu MHz\t\t: 3100.25\n"
    assert Frequency(tree({"proc/cpuinfo": info})).read() == 3100.25


def test_a_virtual_machine_has_no_frequency_and_says_so(tree: Tree) -> None:
    root = tree({"proc/cpuinfo": "flags : fpu hypervisor\ncpu MHz : 2596.152\n"})
    assert "virtual machine" in why_not(Frequency(root))


def throttle(cpu: int, core: int, package: int, socket: int) -> dict[str, str]:
    folder = f"sys/devices/system/cpu/cpu{cpu}"
    return {
        f"{folder}/thermal_throttle/core_throttle_count": f"{core}\n",
        f"{folder}/thermal_throttle/package_throttle_count": f"{package}\n",
        f"{folder}/topology/physical_package_id": f"{socket}\n",
    }


def test_throttling_counts_each_core_and_each_package_once(tree: Tree) -> None:
    root = tree({**throttle(0, 1, 7, 0), **throttle(1, 2, 7, 0), **throttle(2, 4, 9, 1)})
    meter = Throttling(root)
    before = meter.read()
    assert before == 1 + 2 + 4 + 7 + 9
    assert meter.between(before, before, 0.1).causes == ()
    tree({**throttle(0, 1, 8, 0), **throttle(1, 2, 8, 0)})
    seen = meter.between(before, meter.read(), 0.1)
    assert (seen.causes, seen.figures) == (("throttled",), {"machine_throttle_events": 1})


def test_temperature_is_the_hottest_of_the_processors_sensors(tree: Tree) -> None:
    root = tree(
        {
            "sys/class/hwmon/hwmon0/name": "nvme\n",
            "sys/class/hwmon/hwmon0/temp1_input": "99000\n",
            "sys/class/hwmon/hwmon1/name": "coretemp\n",
            "sys/class/hwmon/hwmon1/temp1_input": "61000\n",
            "sys/class/hwmon/hwmon1/temp2_input": "63500\n",
        }
    )
    assert Temperature(root).read() == 63.5


def test_temperature_comes_from_the_processors_thermal_zone_without_hwmon(tree: Tree) -> None:
    root = tree(
        {
            "sys/class/thermal/thermal_zone0/type": "acpitz\n",
            "sys/class/thermal/thermal_zone0/temp": "20000\n",
            "sys/class/thermal/thermal_zone1/type": "x86_pkg_temp\n",
            "sys/class/thermal/thermal_zone1/temp": "48000\n",
        }
    )
    assert Temperature(root).read() == 48.0


HOSTILE = {
    "empty": "",
    "words": "many cores, much load",
    "binary": "\x00\x01\x02",
    "half a line": "cpu  1 2",
    "huge": "9" * 10_000 + "x",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_garbage_is_unreadable_with_one_line_that_names_the_file(tree: Tree, content: str) -> None:
    cpu = "sys/devices/system/cpu/cpu0"
    root = tree(
        dict.fromkeys(
            (
                *("proc/stat", f"proc/{WORKER}/stat", f"proc/{os.getpid()}/stat"),
                *(f"proc/{WORKER}/task/1/status", "proc/pressure/cpu", "proc/cpuinfo"),
                *(f"{cpu}/cpufreq/scaling_cur_freq", f"{cpu}/thermal_throttle/core_throttle_count"),
            ),
            content,
        )
        | {"sys/class/hwmon/hwmon0/name": "k10temp", "sys/class/hwmon/hwmon0/temp1_input": content}
    )
    all_meters = [*meters(WORKER, "cpu", 1.0, root), Pressure(root)]
    reasons = {m.name: why_not(m) for m in all_meters if m.name != "frequency"}
    reasons["frequency"] = why_not(Frequency(root, cpus=[0]))
    for name, reason in reasons.items():
        assert str(root) in reason, name
        assert "\n" not in reason
        assert len(reason) < 250


def test_an_empty_machine_says_why_of_every_meter(tmp_path: Path) -> None:
    for meter in [*meters(WORKER, "cpu", 1.0, tmp_path), Pressure(tmp_path)]:
        assert why_not(meter), meter.name


def test_a_file_that_may_not_be_read_says_so(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests may run as root, whom no mode keeps out: the kernel's answer is made up."""

    def refused(path: Path, flags: int) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    root = tree({"proc/pressure/cpu": "some total=1"})
    monkeypatch.setattr(kernel.os, "open", refused)
    assert why_not(Pressure(root)) == f"{root}/proc/pressure/cpu: permission denied"


def test_cpus_are_listed_in_the_order_of_their_numbers(tree: Tree) -> None:
    root = tree(dict.fromkeys((f"cpu{n}/x" for n in (10, 2, 0)), ""))
    assert [path.name for path in kernel.numbered(root, "cpu[0-9]*")] == ["cpu0", "cpu2", "cpu10"]
