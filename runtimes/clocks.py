"""Clocks: what times a call, and what that time covers.

A session names its clock in its fairness contract, and the worker times with the clock of that
name: a row cannot say one and have used another.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from compile.errors import Unsupported

HOST = "host"
CUDA_EVENTS = "cuda-events"


class Clock(Protocol):
    """Times one call at a time. Its own cost is part of what it says: keep it small."""

    @property
    def covers(self) -> str:
        """What lies between ``start`` and ``stop``, in one line."""

    def start(self) -> Any:
        """Begin; what it returns is for ``stop``."""

    def stop(self, started: Any) -> int:
        """Nanoseconds since ``start``. What was asked for in between has then finished."""

    def wait(self) -> None:
        """Return when all that was asked for has finished."""


class HostClock:
    """``time.perf_counter_ns`` of the worker's process (CLOCK_MONOTONIC: it is never set back).

    A call that runs on a device must wait for it itself: the contract's ``synchronised``.
    """

    covers = (
        "wall time on the host from before the call to after its return: Python, dispatch, "
        "launches, the device's work where the call waits for it, and whoever else had the CPU"
    )

    start = staticmethod(time.perf_counter_ns)

    def stop(self, started: int) -> int:
        return time.perf_counter_ns() - started

    def wait(self) -> None:
        """A call on this clock has finished when it returns."""


class CudaEvents:
    """Two events in the device's current stream (cudaEventElapsedTime; resolution about 0.5 us).

    The second one is put into the stream when the call has returned, and ``stop`` waits for it: the
    call itself should not wait for the device. What the host does once the device has all of its
    work is hidden, unless the device has long finished by then.
    """

    covers = (
        "time on the device's stream from before the call to after its return: kernels, copies, "
        "and the gaps in which it waits for the host; not how the host waits for the device's end, "
        "nor host work that goes on beside the device's"
    )

    def __init__(self, device: str, cuda: Any = None) -> None:
        """``cuda`` is ``torch.cuda``, imported here when it is not given."""
        if cuda is None:
            import torch

            cuda = torch.cuda
        self._cuda = cuda
        self._device = device
        self._first = cuda.Event(enable_timing=True)
        self._second = cuda.Event(enable_timing=True)

    def start(self) -> Any:
        stream = self._cuda.current_stream(self._device)
        self._first.record(stream)
        return stream

    def stop(self, started: Any) -> int:
        self._second.record(started)
        self._second.synchronize()
        return round(self._first.elapsed_time(self._second) * 1e6)  # it tells milliseconds

    def wait(self) -> None:
        self._cuda.synchronize(self._device)


def clock_of(name: str, device: str) -> Clock:
    """The clock that a contract names. Raises ValueError for a name that is none."""
    if name == HOST:
        return HostClock()
    if name == CUDA_EVENTS:
        return CudaEvents(device)
    raise ValueError(f"a contract names no clock {name!r}: {HOST} or {CUDA_EVENTS}")


def clock_calls(clock: Clock, call: Callable[[], object], n: int) -> np.ndarray:
    """Nanoseconds of each of ``n`` calls, int64 ``(n,)``."""
    start, stop = clock.start, clock.stop
    samples = np.empty(n, np.int64)
    for i in range(n):
        started = start()
        call()
        samples[i] = stop(started)
    return samples


def slowed(call: Callable[[], object], clock: Clock, share: float) -> Callable[[], object]:
    """The call, and ``share`` of the time that it took once more on the core that made it.

    Raises Unsupported for a clock that does not see what the host does after the call.
    """
    if not isinstance(clock, HostClock):
        raise Unsupported(
            "a slow-down is made on the host, which this session's clock does not see"
        )
    now = time.perf_counter_ns

    def both() -> None:
        start = now()
        call()
        returned = now()
        end = returned + int((returned - start) * share)
        while now() < end:
            pass

    return both
