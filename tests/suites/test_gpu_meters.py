"""The GPU's meters on a made-up NVML: there is no GPU where these tests run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from runtimes import nvml
from runtimes.nvml import NvmlDevice, NvmlUnavailable
from suites.measure.meters.gpu import Gpu
from suites.measure.meters.gpu_energy import GpuEnergy
from suites.measure.meters.meter import why_not


class NVMLError(Exception):
    pass


class FakeNvml:
    """The functions of ``pynvml`` that are used, each answering from ``tell``."""

    NVMLError = NVMLError
    NVML_CLOCK_SM = 1
    NVML_TEMPERATURE_GPU = 0

    def __init__(self, **tell):
        self.tell = {
            "ClockInfo": 1980,
            "EnforcedPowerLimit": 700_000,
            "Temperature": 51,
            "CurrentClocksEventReasons": 0x01 | 0x02,
            "TotalEnergyConsumption": 5_000_000,
            "ComputeRunningProcesses": [
                SimpleNamespace(pid=7, usedGpuMemory=600),
                SimpleNamespace(pid=8, usedGpuMemory=50),
                SimpleNamespace(pid=9, usedGpuMemory=None),
            ],
            **tell,
        }
        for name in self.tell:
            setattr(self, f"nvmlDeviceGet{name}", lambda *_, name=name: self._answer(name))
        self.asked = []

    def nvmlInit(self):  # noqa: N802 - the library's name
        self.asked.append("init")

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        self.asked.append(index)
        if index > 1:
            raise NVMLError("Invalid Argument")
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        self.asked.append(uuid)
        return uuid

    def _answer(self, name):
        if isinstance(self.tell[name], Exception):
            raise self.tell[name]
        return self.tell[name]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Puts a fake library in pynvml's place."""
    nvml._library.cache_clear()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def put(library: object) -> object:
        monkeypatch.setitem(sys.modules, "pynvml", library)
        return library

    yield put
    nvml._library.cache_clear()


def test_gpu_reads_clock_cap_temperature_and_no_harmless_reason(install) -> None:
    install(FakeNvml())
    meter = Gpu("cuda:0")
    seen = meter.between(meter.read(), meter.read(), 1.0)
    assert seen.causes == ()  # idle and set clocks are no disturbance
    assert seen.figures == {
        "machine_gpu_clock_mhz": 1980,
        "machine_gpu_power_cap_w": 700.0,
        "machine_gpu_temperature_c": 51,
    }


def test_a_reason_at_either_end_marks_the_block(install) -> None:
    library = install(FakeNvml(CurrentClocksEventReasons=0x04 | 0x40))
    meter = Gpu("cuda:0")
    before = meter.read()
    library.tell |= {"CurrentClocksEventReasons": 0x20, "ClockInfo": 1200, "Temperature": 88}
    seen = meter.between(before, meter.read(), 1.0)
    assert seen.causes == ("gpu-power-cap", "gpu-hardware-thermal", "gpu-thermal")
    assert seen.figures["machine_gpu_clock_mhz"] == 1200
    assert seen.figures["machine_gpu_temperature_c"] == 88


def test_an_older_library_has_the_reasons_under_their_old_name(install) -> None:
    library = FakeNvml(CurrentClocksThrottleReasons=0x80)
    del library.nvmlDeviceGetCurrentClocksEventReasons
    install(library)
    assert NvmlDevice("cuda:0").slowed_by() == ("power-brake",)


def test_energy_is_the_difference_of_the_counter_in_joules(install) -> None:
    library = install(FakeNvml())
    meter = GpuEnergy("cuda:0")
    before = meter.read()
    library.tell["TotalEnergyConsumption"] = 5_012_500
    assert meter.between(before, meter.read(), 1.0).figures["energy_j"] == pytest.approx(12.5)


def test_memory_is_that_of_the_asked_processes(install) -> None:
    install(FakeNvml())
    device = NvmlDevice("cuda:0")
    assert device.process_bytes({7, 8}) == 650
    for absent in ({9}, {10}):
        with pytest.raises(NvmlUnavailable, match="lists no such process"):
            device.process_bytes(absent)


@pytest.mark.parametrize(
    ("visible", "device", "asked"),
    [
        (None, "cuda:1", 1),
        (None, "cuda", 0),
        ("1,0", "cuda:0", 1),
        ("GPU-77, 0", "cuda:0", "GPU-77"),
    ],
)
def test_the_device_is_the_one_that_cuda_calls_so(install, visible, device, asked) -> None:
    library = install(FakeNvml())
    NvmlDevice(device, {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    assert library.asked == ["init", asked]


@pytest.mark.parametrize(
    ("tell", "device", "environment", "reason"),
    [
        ({}, "cuda:5", {}, "nvmlDeviceGetHandleByIndex: Invalid Argument"),
        ({}, "cpu", {}, "cpu is no NVIDIA GPU"),
        ({}, "cuda:1", {"CUDA_VISIBLE_DEVICES": "3"}, "CUDA_VISIBLE_DEVICES=3 hides cuda:1"),
        ({}, "cuda:0", {"CUDA_VISIBLE_DEVICES": ""}, "CUDA_VISIBLE_DEVICES= hides cuda:0"),
    ],
)
def test_a_device_that_is_not_there_says_why(install, tell, device, environment, reason) -> None:
    install(FakeNvml(**tell))
    with pytest.raises(NvmlUnavailable, match=reason):
        NvmlDevice(device, environment)


def test_a_number_that_the_gpu_does_not_tell_is_the_meters_reason(install) -> None:
    install(FakeNvml(TotalEnergyConsumption=NVMLError("Not Supported")))
    reason = why_not(GpuEnergy("cuda:0"))
    assert reason == "nvmlDeviceGetTotalEnergyConsumption: Not Supported"
    assert why_not(Gpu("cuda:0")) == ""


def test_without_the_library_the_reason_is_the_way_out(install) -> None:
    install(None)  # an import of None fails
    assert "pip install nvidia-ml-py" in why_not(Gpu("cuda:0"))
    assert "pip install nvidia-ml-py" in why_not(GpuEnergy("cuda:0"))


def test_a_library_without_a_driver_says_so(install) -> None:
    library = FakeNvml()

    def fail() -> None:
        raise NVMLError("Driver Not Loaded")

    library.nvmlInit = fail
    install(library)
    assert why_not(Gpu("cuda:0")) == "NVML does not start: Driver Not Loaded"
