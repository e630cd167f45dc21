"""Energy of back-to-back calls, from the counters of the packages and GPUs that made them.

Nothing is subtracted: what a package uses while idle, and what others do on it, is in the figure.
The idle power, taken while every worker is stopped, stands beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from suites.measure.meters.gpu_energy import GpuEnergy
from suites.measure.meters.meter import Meter, Unreadable, why_not
from suites.measure.meters.rapl import Rapl

MIN_PERIODS = 20
"""A counter that is renewed every so often is off by up to one period at either end: 5 % each."""
T = TypeVar("T")


class EnergyMeter(Meter, Protocol):
    """A meter whose figure is ``energy_j``."""

    period_s: float

    @property
    def source(self) -> str: ...


def energy_meters(device: str, root: Path = Path("/")) -> list[EnergyMeter]:
    """Those of a cell on ``device``: the GPU's, if it has one, and the packages'."""
    packages: list[EnergyMeter] = [Rapl(root)]
    return packages if device == "cpu" else [GpuEnergy(device), *packages]


@dataclass(frozen=True)
class Power:
    """Mean watts of a stretch of time, or why there are none."""

    watts: float | None
    source: str = ""
    absent: str = ""


class Energy:
    """The meters of one device that can be read, as one."""

    def __init__(
        self, meters: Sequence[EnergyMeter], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """The first meter is the device's own: without it the others' sum would be no answer."""
        reasons = [(meter, why_not(meter)) for meter in meters]
        self._meters = [meter for meter, reason in reasons if not reason and not reasons[0][1]]
        self._clock = clock
        self._absent = "; ".join(f"{meter.name}: {reason}" for meter, reason in reasons if reason)

    @property
    def min_seconds(self) -> float:
        """How long a stretch must last, for its energy to be known; 0 without a meter."""
        return max((MIN_PERIODS * meter.period_s for meter in self._meters), default=0.0)

    def during(self, work: Callable[[], T]) -> tuple[T, Power]:
        """Do ``work``, and the mean power meanwhile: all that lies between its call and return."""
        if not self._meters:
            return work(), Power(None, absent=self._absent)
        try:
            before = self._read()
        except Unreadable as error:
            return work(), Power(None, absent=str(error))
        start = self._clock()
        done = work()
        seconds = max(self._clock() - start, 1e-9)
        try:
            joules = sum(
                meter.between(first, last, seconds).figures["energy_j"]
                for meter, first, last in zip(self._meters, before, self._read(), strict=True)
            )
        except Unreadable as error:
            return done, Power(None, absent=str(error))
        source = " + ".join(meter.source for meter in self._meters)
        return done, Power(joules / seconds, source, self._absent)

    def idle(self, sleep: Callable[[float], object] = time.sleep) -> Power:
        """The power while this process and its workers do nothing. Takes ``min_seconds``, and at
        least a quarter of a second; no time without a meter."""
        if not self._meters:
            return Power(None, absent=self._absent)
        return self.during(lambda: sleep(max(0.25, self.min_seconds)))[1]

    def _read(self) -> list[Any]:
        return [meter.read() for meter in self._meters]
