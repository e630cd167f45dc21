"""Samples replayed into pytest-benchmark: a clock that moves by what was measured before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class VirtualClock:
    """A timer whose reading between two calls is the next sample, to the nanosecond.

    The hand goes back to zero before each call: a reading is then one sample in seconds, and no
    difference of two large sums in which its last digits are lost.
    """

    def __init__(self) -> None:
        self._now = 0.0

    def seconds(self) -> float:
        """The timer that pytest-benchmark reads, before and after each call."""
        return self._now

    def rewind(self) -> None:
        self._now = 0.0

    def advance(self, nanoseconds: int) -> None:
        self._now += nanoseconds / 1e9


def replay(benchmark: Any, clock: VirtualClock, nanoseconds: Sequence[int]) -> None:
    """Make each sample a round of ``benchmark``, a fixture whose timer is ``clock.seconds``."""
    calls = iter(nanoseconds)

    def call() -> None:
        clock.advance(next(calls))

    benchmark.pedantic(call, setup=clock.rewind, rounds=len(nanoseconds), iterations=1)
