"""The host's clock on calls of known length, and CUDA events on a made-up device."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from compile.errors import InputError, Unsupported
from compile.signature import Signature
from runtimes.clocks import CudaEvents, HostClock, clock_calls, clock_of, slowed
from runtimes.fake import Behaviour, write_fake
from runtimes.session import SessionOptions
from runtimes.torch_eager import TorchSession


class FakeCuda:
    """A device that works off its stream while the host runs ahead. Times in nanoseconds.

    ``launch`` enqueues work and returns at once; an event is passed when all before it is done.
    """

    def __init__(self) -> None:
        self.host = 0
        self.free_at = 0
        self.log: list[str] = []

    def launch(self, work: int, host: int = 1_000) -> None:
        self.host += host
        self.free_at = max(self.free_at, self.host) + work

    def Event(self, enable_timing: bool) -> FakeEvent:  # noqa: N802 - torch's name
        assert enable_timing, "without it elapsed_time raises"
        return FakeEvent(self)

    def current_stream(self, device: str) -> str:
        return f"stream of {device}"

    def synchronize(self, device: str) -> None:
        self.log.append(f"synchronize {device}")
        self.host = max(self.host, self.free_at)


class FakeEvent:
    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.at: int | None = None
        self.waited = False

    def record(self, stream: str) -> None:
        assert stream == "stream of cuda:1"
        self.cuda.log.append("record")
        self.at = self.cuda.free_at = max(self.cuda.free_at, self.cuda.host)
        self.waited = False

    def synchronize(self) -> None:
        assert self.at is not None
        self.cuda.log.append("wait for event")
        self.cuda.host = max(self.cuda.host, self.at)
        self.waited = True

    def elapsed_time(self, other: FakeEvent) -> float:
        assert other.waited, "torch raises cudaErrorNotReady"
        return (other.at - self.at) / 1e6


def test_cuda_events_tell_the_devices_time_and_not_how_the_host_waits_for_it() -> None:
    cuda = FakeCuda()

    def call() -> None:
        cuda.launch(work=2_000_000, host=1_000)
        cuda.launch(work=500_000, host=9_000)  # launched while the first one runs: no gap
        cuda.host += 1_000_000  # Python goes on beside the device

    samples = clock_calls(CudaEvents("cuda:1", cuda), call, 3)
    assert samples.dtype == np.int64
    # The device waits 1 us for the first launch.
    assert samples.tolist() == [2_501_000] * 3
    assert cuda.log == ["record", "record", "wait for event"] * 3


def test_a_call_whose_host_work_outlasts_the_device_is_as_long_by_events() -> None:
    cuda = FakeCuda()

    def call() -> None:
        cuda.launch(work=2_000_000, host=0)
        cuda.host += 7_000_000

    assert clock_calls(CudaEvents("cuda:1", cuda), call, 1).tolist() == [7_000_000]


def test_cuda_events_count_the_gap_in_which_the_device_waits_for_the_host() -> None:
    cuda = FakeCuda()

    def call() -> None:
        cuda.launch(work=1_000_000, host=0)
        cuda.host += 3_000_000
        cuda.launch(work=1_000_000, host=0)

    assert clock_calls(CudaEvents("cuda:1", cuda), call, 1).tolist() == [4_000_000]


def test_a_call_begins_when_the_one_before_has_finished() -> None:
    cuda = FakeCuda()
    clock = CudaEvents("cuda:1", cuda)
    started = clock.start()
    cuda.launch(5_000_000)
    clock.stop(started)
    assert cuda.host >= cuda.free_at


def test_waiting_waits_for_the_whole_device() -> None:
    cuda = FakeCuda()
    cuda.launch(5_000_000)
    CudaEvents("cuda:1", cuda).wait()
    assert cuda.log == ["synchronize cuda:1"]
    assert cuda.host == cuda.free_at


def test_the_host_clock_tells_at_least_what_a_call_slept() -> None:
    samples = clock_calls(HostClock(), lambda: time.sleep(0.002), 5)
    assert (samples >= 2_000_000).all()
    assert clock_calls(HostClock(), lambda: None, 0).shape == (0,)


def test_the_host_clock_is_perf_counter_ns(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([100, 350])
    monkeypatch.setattr(HostClock, "start", staticmethod(lambda: next(ticks)))
    monkeypatch.setattr(time, "perf_counter_ns", lambda: next(ticks))
    clock = HostClock()
    assert clock.stop(clock.start()) == 250


def test_a_clock_that_no_contract_can_name_is_refused() -> None:
    assert isinstance(clock_of("host", "cpu"), HostClock)
    with pytest.raises(ValueError, match="no clock 'sundial': host or cuda-events"):
        clock_of("sundial", "cpu")


def test_a_worker_times_with_the_clock_that_its_contract_names(
    start: Callable, tmp_path: Path, linear_signature: Signature
) -> None:
    write_fake(tmp_path / "fake", linear_signature, Behaviour(latency_ms=3.0))
    worker = start("fake")
    worker.open(tmp_path / "fake")
    worker.prepare(linear_signature.feeds({"batch": 1}))
    assert worker.contract().clock == "host"
    assert (worker.sample(3).ns >= 3_000_000).all()


@pytest.fixture
def session(linear_signature: Signature) -> Callable[[str], TorchSession]:
    """A session that takes the CPU for a CUDA device: only what it asks of torch.cuda differs."""

    def make(clock: str) -> TorchSession:
        module = torch.nn.Linear(32, 32)
        found = TorchSession(module, linear_signature, SessionOptions())
        found.call = lambda x: (module(x),)
        found._device = SimpleNamespace(type="cuda")
        found._clock = clock
        found._tensors = lambda feeds: [torch.from_numpy(feeds["x"])]
        return found

    return make


@pytest.mark.parametrize(("clock", "waits"), [("host", 2), ("cuda-events", 0)])
def test_a_cuda_call_waits_for_the_device_unless_the_clock_does(
    session: Callable[[str], TorchSession],
    linear_signature: Signature,
    monkeypatch: pytest.MonkeyPatch,
    clock: str,
    waits: int,
) -> None:
    waited: list[object] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    opened = session(clock)
    timed = opened.prepare(linear_signature.feeds({"batch": 2}))
    timed()
    assert len(waited) == waits  # once before the clock, once in the timed call
    contract = opened.contract()
    assert (contract.clock, contract.copies, contract.synchronised) == (clock, "excluded", True)


def test_cuda_events_on_a_cpu_are_refused(linear_signature: Signature) -> None:
    with pytest.raises(InputError, match="clock = 'cuda-events' times CUDA devices only, not cpu"):
        TorchSession(torch.nn.Linear(2, 2), linear_signature, SessionOptions(), clock="cuda-events")


def test_a_slow_down_is_refused_by_a_clock_that_would_not_see_it() -> None:
    events = CudaEvents("cuda:0", FakeCuda())
    with pytest.raises(Unsupported, match="does not see"):
        slowed(lambda: None, events, 0.1)
    begun = time.perf_counter_ns()
    slowed(lambda: time.sleep(0.01), HostClock(), 1.0)()
    assert time.perf_counter_ns() - begun >= 20e6
