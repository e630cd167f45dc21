"""What a meter is: something about the machine, read before and after a block of calls.

Never during it. A meter says what it covers; one that cannot be read here says why, and its
figures are then absent: null in the row, never zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


class Unreadable(Exception):
    """A meter cannot be read, and why, in one line."""


@dataclass(frozen=True)
class Seen:
    """What was seen of one block."""

    figures: Mapping[str, float] = field(default_factory=dict)
    """By the names of ``surroundings.FIGURES``; those that nobody could tell are left out."""
    causes: tuple[str, ...] | None = None
    """What disturbed the block, a short word each. None where nobody could tell, which is not
    the same as nothing."""


class Meter(Protocol):
    """One property of the machine or of the worker's life on it."""

    @property
    def name(self) -> str:
        """As ``assay doctor`` shows it."""

    @property
    def covers(self) -> str:
        """Whose doing its figures are, and what they leave out, in one line."""

    def read(self) -> Any:
        """Its state now: counters and gauges, for ``between``. Raises Unreadable."""

    def between(self, before: Any, after: Any, seconds: float) -> Seen:
        """What happened between two readings that lie ``seconds`` apart. Raises Unreadable where
        they do not fit together."""


def why_not(meter: Meter) -> str:
    """Why a meter cannot be read now; empty where it can."""
    try:
        meter.read()
    except Unreadable as error:
        return str(error)
    return ""
