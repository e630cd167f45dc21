"""All meters around one worker's blocks, and how a cell's blocks make one figure of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from suites.measure.meters.frequency import Frequency
from suites.measure.meters.gpu import Gpu
from suites.measure.meters.load import OtherLoad
from suites.measure.meters.meter import Meter, Seen, Unreadable, why_not
from suites.measure.meters.scheduling import Scheduling
from suites.measure.meters.speed import Speed, Yardstick
from suites.measure.meters.temperature import Temperature
from suites.measure.meters.throttling import Throttling

MAX_READ_S = 0.009
"""A meter that takes longer is left out. Kernels before 5.17 sleep for 10 ms and more to answer
``scaling_cur_freq``; the readings would last as long as the blocks. The yardstick takes 1 ms on two
cores and 7 ms on sixteen."""
PROBES = 3

Pool = Callable[[np.ndarray, np.ndarray], float]
"""(the figure of each block, its seconds) -> the cell's figure."""


def _mean(values: np.ndarray, seconds: np.ndarray) -> float:
    return float(np.average(values, weights=seconds))


def _median(values: np.ndarray, seconds: np.ndarray) -> float:
    return float(np.median(values))


def _largest(values: np.ndarray, seconds: np.ndarray) -> float:
    return float(values.max())


def _smallest(values: np.ndarray, seconds: np.ndarray) -> float:
    return float(values.min())


def _sum(values: np.ndarray, seconds: np.ndarray) -> float:
    return float(values.sum())


FIGURES: Mapping[str, Pool] = {
    "machine_others_cores": _mean,
    "machine_steal_cores": _mean,
    "machine_switches_per_s": _mean,
    "machine_preemptions_per_s": _mean,
    "machine_waiting_cores": _mean,
    "machine_speed": _mean,
    "machine_frequency_mhz": _median,
    "machine_throttle_events": _sum,
    "machine_temperature_c": _largest,
    "machine_gpu_clock_mhz": _median,
    "machine_gpu_power_cap_w": _smallest,
    "machine_gpu_temperature_c": _largest,
}
"""Every figure of a block, by its column, and how a cell's blocks are pooled."""


def meters(
    worker: int,
    device: str,
    cores: float,
    root: Path = Path("/"),
    yardstick: Yardstick | None = None,
) -> list[Meter]:
    """Those that could tell something of a worker on ``device`` (``cpu`` or ``cuda:N``)."""
    found: list[Meter] = [
        OtherLoad([worker], cores, root),
        Scheduling(worker, root),
        Frequency(root),
        Throttling(root),
        Temperature(root),
    ]
    if device != "cpu":
        found.append(Gpu(device))
    elif yardstick is not None:
        found.append(Speed(yardstick))
    return found


class Surroundings:
    """Reads its meters before and after a block. One that cannot be read, or takes longer than
    ``MAX_READ_S``, is left out from the beginning; ``absent`` says why."""

    def __init__(
        self, meters: Sequence[Meter], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.absent: dict[str, str] = {}
        self._meters: list[Meter] = []
        for meter in meters:
            if reason := why_not(meter) or _too_slow(meter, clock):
                self.absent[meter.name] = reason
            else:
                self._meters.append(meter)

    def read(self) -> list[Any]:
        """The state of each meter; None for one that did not answer this time."""
        return [_state(meter) for meter in self._meters]

    def seen(self, before: Sequence[Any], seconds: float) -> Seen:
        """What happened since ``before``, which was ``read`` that many seconds ago."""
        figures: dict[str, float] = {}
        causes: list[str] | None = None
        for meter, start, end in zip(self._meters, before, self.read(), strict=True):
            if start is None or end is None:
                continue
            try:
                part = meter.between(start, end, max(seconds, 1e-9))
            except Unreadable:
                continue
            figures.update(part.figures)
            if part.causes is not None:
                causes = [*(causes or []), *part.causes]
        return Seen(figures, None if causes is None else tuple(causes))


def pooled(seen: Sequence[Seen], seconds: Sequence[float]) -> dict[str, float]:
    """One figure of each kind from a cell's blocks; kinds that no block had are left out."""
    found = {}
    for name, pool in FIGURES.items():
        told = [
            (s.figures[name], t) for s, t in zip(seen, seconds, strict=True) if name in s.figures
        ]
        if told:
            values, weights = np.array(told, float).T
            found[name] = pool(values, weights)
    return found


def _state(meter: Meter) -> Any:
    try:
        return meter.read()
    except Unreadable:
        return None


def _too_slow(meter: Meter, clock: Callable[[], float]) -> str:
    """Why not, if even the fastest of a few readings is slow: others may delay one of them."""
    fastest = float("inf")
    for _ in range(PROBES):
        start = clock()
        _state(meter)
        fastest = min(fastest, clock() - start)
    if fastest <= MAX_READ_S:
        return ""
    return f"a reading takes {fastest * 1e3:.1f} ms here, more than {MAX_READ_S * 1e3:.0f} ms"
