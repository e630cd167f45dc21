"""How much to measure: the settings of one measuring loop, checked once."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from compile.errors import InputError

FEWEST_PROCESSES = 3
"""From which an interval is made: that of two rests on one degree of freedom and says nothing."""
FEWEST_CALLS = 6
"""For which a 95 % interval of the median exists."""


@dataclass(frozen=True)
class MeasurePlan:
    """Settings of ``measure``. The defaults take about half a second of calls in each process.

    Raises InputError for a value that no measurement could follow, naming the setting.
    """

    processes: int = 5
    """Fresh processes of each build in which a cell is measured, with the other cells of its block
    between them: one, or at least ``FEWEST_PROCESSES``. What follows is for all of them together,
    except where it says "in each process"."""
    precision: float = 0.02
    """Asked half width of the p50's interval, relative to the p50. Reached where processes do not
    differ, and time allows it; how they differ is in the interval too."""
    confidence: float = 0.95
    """Coverage of every interval that is reported."""
    min_samples: int = 12
    """Kept calls that a cell gets even when they take longer than ``max_seconds``."""
    max_samples: int = 50_000
    first_look: int = 32
    """Kept calls at the first look; more where they would last less than ``min_seconds``. In each
    process a share of them, and at least as many as show a drift."""
    growth: float = 1.5
    """Each look has this many times the calls of the one before."""
    min_seconds: float = 0.2
    """Timed calls last at least this long before the first look, in each process."""
    max_seconds: float = 5.0
    """A cell's budget after its warm-up, re-warming included. One whose p50 has no interval by
    then gets as much once more if its calls are worth half of what it takes."""
    block_seconds: float = 0.1
    """About how long one cell's turn lasts before another's."""
    min_rounds: int = 6
    """Turns that a cell gets before its first look, in each process, so that rounds can be
    compared."""
    rewarm_calls: int = 1
    rewarm_seconds: float = 0.015
    """Untimed calls at the start of each turn, because another cell ran in between: so many, and
    for so long. A call of 4 ms takes 10 % longer right after others' turns, 2 % the third time."""
    min_warmup_s: float = 0.1
    max_warmup_s: float = 3.0
    """Without a steady state within this time, in each process, it is ``not-stationary``."""
    drift_tolerance: float = 0.05
    """Largest change of the median from the first to the last third of the kept calls."""
    patience_s: float = 3.0
    """How long the turns of one workload's cells, all together, are put off while the machine is
    slower than it can be (``meters/speed.py``)."""
    disturbed_cores: float = 0.25
    """A block is marked disturbed when other processes used more than this many cores in it."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise InputError(f"{item.name} must be a number, not {value!r}")
            if not math.isfinite(value):
                raise InputError(f"{item.name} must be finite, not {value!r}")
            if item.type == "int" and value != int(value):
                raise InputError(f"{item.name} must be a whole number, not {value!r}")
        _require(
            self.processes == 1 or self.processes >= FEWEST_PROCESSES,
            f"processes must be 1 or at least {FEWEST_PROCESSES}",
            self.processes,
        )
        _require(0 < self.precision < 1, "precision must lie between 0 and 1", self.precision)
        _require(0.5 <= self.confidence < 1, "confidence must be in [0.5, 1)", self.confidence)
        _require(self.growth >= 1.1, "growth must be at least 1.1", self.growth)
        _require(
            self.min_samples >= FEWEST_CALLS,
            f"min_samples must be at least {FEWEST_CALLS}",
            self.min_samples,
        )
        _require(
            self.first_look >= self.min_samples,
            f"first_look must be at least min_samples ({self.min_samples})",
            self.first_look,
        )
        _require(
            self.max_samples >= self.first_look,
            f"max_samples must be at least first_look ({self.first_look})",
            self.max_samples,
        )
        _require(self.min_rounds >= 1, "min_rounds must be at least 1", self.min_rounds)
        _require(self.rewarm_calls >= 0, "rewarm_calls must not be negative", self.rewarm_calls)
        for name in ("min_seconds", "min_warmup_s", "patience_s", "rewarm_seconds"):
            _require(getattr(self, name) >= 0, f"{name} must not be negative", getattr(self, name))
        for name in ("max_seconds", "block_seconds", "drift_tolerance", "disturbed_cores"):
            _require(getattr(self, name) > 0, f"{name} must be positive", getattr(self, name))
        _require(
            self.max_warmup_s >= self.min_warmup_s,
            f"max_warmup_s must be at least min_warmup_s ({self.min_warmup_s})",
            self.max_warmup_s,
        )
        _require(
            self.max_seconds >= self.min_seconds,
            f"max_seconds must be at least min_seconds ({self.min_seconds})",
            self.max_seconds,
        )


def _require(holds: bool, rule: str, value: float) -> None:
    if not holds:
        raise InputError(f"{rule}, not {value!r}")
