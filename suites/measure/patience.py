"""Waiting for the machine to come back to its own speed, as long as that was agreed to.

What decides is a piece of work that has nothing to do with what is measured: a turn is put off
because the machine is slow, never because a call was.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from suites.measure.meters.meter import Unreadable
from suites.measure.meters.speed import SLOW, Yardstick

PAUSE_S = 0.02
"""Between two looks at a slow machine, which stays so for seconds."""


class Patience:
    """``seconds`` of waiting for all turns of a phase together; call it before each of them."""

    def __init__(
        self,
        yardstick: Yardstick | None,
        seconds: float,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._yardstick = yardstick
        self._seconds = seconds
        self._clock = clock
        self._sleep = sleep
        self.waited_s = 0.0

    def __call__(self) -> None:
        """Return when the last reading is not slow, or when there is no patience left.

        A turn that follows another needs no reading of its own: one was taken after that.
        """
        yardstick = self._yardstick
        if yardstick is None:
            return
        start = self._clock()
        already = self.waited_s
        while yardstick.last < SLOW and self.waited_s < self._seconds:
            self._sleep(PAUSE_S)
            # What is seen while waiting is seen because the machine is slow.
            try:
                yardstick.read(counts=False)
            except Unreadable:  # nothing says that waiting would help
                return
            self.waited_s = already + self._clock() - start
