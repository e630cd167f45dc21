"""What measuring one cell gave: every sample, how it came about, and the final figures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from suites.measure.quantiles import Insufficient, QuantileEstimate
from suites.measure.stopping import Look

QUANTILES = (0.5, 0.9, 0.99)
Status = Literal["ok", "not-stationary", "error"]
StoppedBy = Literal["precision", "time", "samples", "failure", "no-steady-state"]


@dataclass(frozen=True)
class Samples:
    """Every timed call of a cell in order of time, columns of equal length."""

    nanoseconds: np.ndarray
    """int64, one call each."""
    warmup: np.ndarray
    """bool: made before the steady state, and in no figure."""
    block: np.ndarray
    """int32: the cell's turns, counted from 0, a warm-up window counting as one."""
    round: np.ndarray
    """int32: the round of the whole group; -1 during warm-up. Cells are compared by rounds."""
    disturbed: np.ndarray
    """bool: something disturbed the block."""
    cause: np.ndarray | None = None
    """str: what did, several joined by `` + ``; empty where nothing did. None without meters."""
    process: np.ndarray | None = None
    """int32: in which of the cell's processes, counted from 0; rounds are counted anew in each.
    None where there was one."""

    @property
    def kept(self) -> np.ndarray:
        """int64 nanoseconds of the calls after warm-up."""
        return self.nanoseconds[~self.warmup]


@dataclass(frozen=True)
class Conditions:
    """How the machine was while a cell's kept blocks were timed."""

    disturbed_calls: int | None = None
    """Kept calls in disturbed blocks; None where no meter could tell."""
    disturbed_by: Mapping[str, int] | None = None
    """Cause -> kept calls in blocks that it disturbed; a block may have several causes."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """By the names of ``meters.surroundings.FIGURES``; those that nobody could tell are absent."""


@dataclass(frozen=True)
class Processes:
    """What several processes of one build say of each other."""

    count: int
    """Those with a median."""
    unsteady: int
    """Of all, those in which the cell was not stationary."""
    spread: float | None
    """Standard deviation of the logarithms of their medians: about a share of the p50. None of
    fewer than two, or of calls below the clock's tick."""


@dataclass(frozen=True)
class Measurement:
    """One cell's outcome. Whatever the status, ``samples`` holds all that was timed."""

    status: Status
    reason: str
    """One line; empty for ``ok``."""
    stopped_by: StoppedBy
    samples: Samples
    looks: tuple[Look, ...]
    quantiles: dict[float, QuantileEstimate | Insufficient]
    """p50, p90 and p99 in nanoseconds, by level. Empty unless the status is ``ok``."""
    minimum_ns: int | None
    mad_ns: float | None
    """Median absolute deviation from the median, unscaled."""
    warmup_calls: int
    warmup_seconds: float
    conditions: Conditions = field(default_factory=Conditions)
    drift: float | None = None
    """Relative change of the median from the first to the last third of the kept calls."""
    own_drift: float | None = None
    """What is left of it when what the machine did to all cells of a round is taken out."""
    failure: Exception | None = None
    """What the sampler raised, if it did."""
    processes: Processes | None = None
    """How its processes differ, where there were several."""

    @property
    def precision(self) -> float:
        """Relative half width of the p50's interval that was reached; infinite without one."""
        p50 = self.quantiles.get(0.5)
        return p50.precision if isinstance(p50, QuantileEstimate) else math.inf
