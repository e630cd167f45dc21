"""A service level objective: what share of requests is answered within what time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from suites.measure.load.trace import Trace


@dataclass(frozen=True)
class Slo:
    """At least ``share`` of the requests end within ``e2el_ns`` of their intended arrival."""

    e2el_ns: int
    share: float

    def missed(self, trace: Trace) -> np.ndarray:
        """bool, of each kept request: answered too late, or given up. ``(kept,)``."""
        late = trace.finish - trace.arrival > self.e2el_ns
        return (late | ~trace.served)[trace.kept]

    def __str__(self) -> str:
        return f"{100 * self.share:g} % within {self.e2el_ns / 1e6:g} ms"
