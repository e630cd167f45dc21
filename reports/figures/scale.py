"""From values to positions on an axis, and the round values worth a tick."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """A linear or logarithmic map of ``low``..``high`` to 0..1."""

    low: float
    high: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Position of ``value``, clipped to 0..1."""
        if self.log:
            value = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            value = (value - self.low) / (self.high - self.low)
        return min(max(value, 0.0), 1.0)

    def ticks(self, about: int = 5) -> list[float]:
        """Round values inside, ``about`` that many; on a log axis evenly enough to be read."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for leading in ((1, 1.5, 2, 3, 4, 5, 7), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
                ticks = [m * 10.0**d for d in decades for m in leading]
                ticks = [t for t in ticks if self.low <= t <= self.high]
                if len(ticks) <= about + 2:
                    break
            if len(ticks) >= 3:
                return ticks
        step = round_up((self.high - self.low) / about)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [i * step for i in range(first, last + 1)]


def positive_scale(values: Iterable[float | None], margin: float = 0.08) -> Scale:
    """A scale that holds positive values: logarithmic when they span more than a factor of 5."""
    known = [v for v in values if v is not None and math.isfinite(v) and v > 0] or [1.0]
    low, high = min(known), max(known)
    if high / low > 5:
        room = (high / low) ** margin
        return Scale(low / room, high * room, log=True)
    room = margin * (high - low) or 0.1 * high
    return Scale(max(low - room, 0.0), high + room)


def round_up(value: float) -> float:
    """The smallest of 1, 2, 2.5 or 5 times a power of ten that is not below ``value``."""
    power = 10.0 ** math.floor(math.log10(value)) if value > 0 else 1.0
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= value * (1 - 1e-9))


def tick_text(value: float) -> str:
    """A tick's number without noise: ``0.5``, ``20``, ``1,000``."""
    return f"{value:,.10g}" if abs(value) >= 1 else f"{round(value, 10):.4g}"
