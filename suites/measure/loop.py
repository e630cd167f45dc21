"""The measuring loop: what is compared takes turns, in random order, until each is known.

Cells measured one after the other differ by what the machine did meanwhile. Here every round
gives each unfinished cell one short block, in an order drawn anew for each round, so that a
machine that drifts slows them all alike, and cells can be compared round by round.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from suites.measure.block import Block, conditions_of, samples_of
from suites.measure.measurement import QUANTILES, Measurement, Samples, Status, StoppedBy
from suites.measure.meters.surroundings import Surroundings
from suites.measure.plan import MeasurePlan
from suites.measure.polish import own_times
from suites.measure.quantiles import quantile_interval
from suites.measure.steady import Drift, WarmUp, drift_of
from suites.measure.stopping import Stopping

WARMUP_SHARE = 0.2
"""Of a cell's progress bar."""
MOST_REWARM_CALLS = 10_000
"""Of calls of a microsecond or less; one that reads 0 ns would be made for ever."""


class Sampler(Protocol):
    """A call that can be timed, usually in a worker process."""

    def sample(self, calls: int, rewarm: int) -> np.ndarray:
        """Make ``rewarm`` untimed calls, then ``calls`` timed ones: int64 nanoseconds each."""


@dataclass(frozen=True)
class Progress:
    """Where one cell stands, for a progress bar."""

    name: str
    phase: Literal["warm-up", "measuring", "finished"]
    kept: int
    precision: float
    """Reached at the last look; infinite before the first."""
    fraction: float
    """Of the cell's work, 0 to 1; an estimate that never falls."""


OnProgress = Callable[[Progress], None]


def measure(
    samplers: Mapping[str, Sampler],
    plan: MeasurePlan,
    seed: int,
    on_progress: OnProgress = lambda progress: None,
    *,
    surroundings: Mapping[str, Surroundings] | None = None,
    patience: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Measurement]:
    """Measure every sampler, interleaved. The result has the order of ``samplers``.

    ``surroundings`` maps a name to what is read before and after each of its blocks; of samplers
    without any it is not known what disturbed them. ``patience`` is called before each block and
    may put it off. ``clock`` gives seconds and decides budgets only.
    Whatever a sampler raises ends that sampler alone and is kept in ``Measurement.failure``.
    """
    random = np.random.default_rng(seed)
    nothing = Surroundings([])
    cells = [
        _Cell(name, sampler, plan, clock, (surroundings or {}).get(name, nothing), on_progress)
        for name, sampler in samplers.items()
    ]
    for index in random.permutation(len(cells)):
        patience()
        cells[index].warm_up()
    live = [cell for cell in cells if not cell.finished]
    number = 0
    while live:
        for index in random.permutation(len(live)):
            patience()
            live[index].take_turn(number)
        live = [cell for cell in live if not cell.finished]
        number += 1
    own = own_times({cell.name: cell.samples() for cell in cells})
    return {cell.name: cell.measurement(own[cell.name]) for cell in cells}


class _Cell:
    """One sampler on its way from warm-up to its measurement."""

    def __init__(
        self,
        name: str,
        sampler: Sampler,
        plan: MeasurePlan,
        clock: Callable[[], float],
        surroundings: Surroundings,
        on_progress: OnProgress,
    ) -> None:
        self.name = name
        self._sampler = sampler
        self._plan = plan
        self._clock = clock
        self._surroundings = surroundings
        self._on_progress = on_progress
        self._warmup = WarmUp(plan.min_warmup_s)
        self._stopping: Stopping | None = None
        self._blocks: list[Block] = []
        self._block_calls = 1
        self._rewarm_calls = plan.rewarm_calls
        self._kept = 0
        self._seconds = 0.0
        self._budget = plan.max_seconds
        self._stopped_by: StoppedBy | None = None
        self._failure: Exception | None = None
        self._fraction = 0.0

    @property
    def finished(self) -> bool:
        return self._stopped_by is not None

    def warm_up(self) -> None:
        """Call until steady, then settle how many calls a block and the first look have."""
        plan = self._plan
        first = self._timed_block(1, 0, round_number=-1)
        if first is None:
            return
        # The first call may compile or allocate for many seconds: it is on no budget.
        seconds = first.seconds
        while True:
            calls = self._warmup.window_calls(seconds)
            window = self._timed_block(calls, 0, round_number=-1)
            if window is None:
                return
            seconds = window.seconds / calls
            steady = self._warmup.add(window.nanoseconds, window.seconds)
            self._report("warm-up", WARMUP_SHARE * self._warmup.seconds / plan.max_warmup_s)
            if steady:
                break
            if self._warmup.seconds >= plan.max_warmup_s and len(self._warmup.windows) >= 2:
                self._finish("no-steady-state")
                return
        enough = math.ceil(plan.min_seconds / max(seconds, 1e-9))
        size = min(max(plan.first_look, enough), plan.max_samples)
        self._stopping = Stopping(plan, size)
        in_block = math.ceil(plan.block_seconds / max(seconds, 1e-9))
        self._block_calls = max(1, min(in_block, math.ceil(size / plan.min_rounds)))
        rewarm = math.ceil(plan.rewarm_seconds / max(seconds, 1e-9))
        self._rewarm_calls = min(max(plan.rewarm_calls, rewarm), MOST_REWARM_CALLS)

    def take_turn(self, round_number: int) -> None:
        """One block; a look when it is due; the end when precise enough or out of budget."""
        plan, stopping = self._plan, self._stopping
        assert stopping is not None, "a cell takes turns only after its warm-up"
        calls = min(self._block_calls, stopping.next_size - self._kept)
        block = self._timed_block(calls, self._rewarm_calls, round_number)
        if block is None:
            return
        self._kept += calls
        self._seconds += block.seconds
        out_of_time = self._seconds >= self._budget and self._kept >= plan.min_samples
        full = self._kept >= plan.max_samples
        if self._kept >= stopping.next_size or out_of_time or full:
            if stopping.look(self.samples().kept):
                self._finish("precision")
                return
            again = stopping.looks[-1].within_reach and self._budget == plan.max_seconds
            if out_of_time and again and not full:
                # No figure at all is worth more time than a wide one.
                self._budget *= 2
            elif out_of_time or full:
                self._finish("time" if out_of_time else "samples")
                return
        # It will be over at the next look at the earliest, and with the budget at the latest.
        done = max(0.9 * self._kept / stopping.next_size, self._seconds / self._budget)
        self._report("measuring", WARMUP_SHARE + (1 - WARMUP_SHARE) * done)

    def measurement(self, own: np.ndarray) -> Measurement:
        """``own`` are the kept calls without what the machine did to all cells (``own_times``)."""
        samples = self.samples()
        kept = samples.kept
        looks = tuple(self._stopping.looks) if self._stopping else ()
        own_drift = drift_of(own, self._plan.drift_tolerance)
        status, reason = self._verdict(own_drift)
        ok = status == "ok"
        quantiles = {}
        if ok:
            # The p50 decided when to stop, so it keeps the interval of its last look.
            quantiles = {p: quantile_interval(kept, p, self._plan.confidence) for p in QUANTILES}
            quantiles[0.5] = looks[-1].p50
        return Measurement(
            status=status,
            reason=reason,
            stopped_by=self._stopped_by or "failure",
            samples=samples,
            looks=looks,
            quantiles=quantiles,
            minimum_ns=int(kept.min()) if ok else None,
            mad_ns=float(np.median(np.abs(kept - np.median(kept)))) if ok else None,
            warmup_calls=int(samples.warmup.sum()),
            warmup_seconds=sum(b.seconds for b in self._blocks if b.round_number < 0),
            conditions=conditions_of(self._blocks),
            drift=looks[-1].drift.change if looks else None,
            own_drift=own_drift.change if looks else None,
            failure=self._failure,
        )

    def _verdict(self, own: Drift) -> tuple[Status, str]:
        if self._failure is not None:
            text = str(self._failure).strip().split("\n", 1)[0]
            return "error", f"{type(self._failure).__name__}: {text}"
        if self._stopped_by == "no-steady-state" or self._stopping is None:
            return "not-stationary", (
                f"no steady state within {self._plan.max_warmup_s:g} s of warm-up "
                f"({sum(len(b.nanoseconds) for b in self._blocks)} calls); raise max_warmup_s"
            )
        drift = self._stopping.looks[-1].drift
        # A machine that slows every cell leaves their ratios as they are; one that no other cell
        # shares is the cell's own.
        if drift.significant and own.significant:
            return "not-stationary", (
                f"the median moved by {drift.change:+.1%} from the first to the last third of "
                f"{self._kept} calls ({own.change:+.1%} by itself, not with other cells); measure "
                "on a quieter machine or raise min_warmup_s"
            )
        return "ok", ""

    def _timed_block(self, calls: int, rewarm: int, round_number: int) -> Block | None:
        """Let the sampler make one block of calls. None, and the cell is finished, if it fails."""
        before = self._surroundings.read()
        start = self._clock()
        try:
            nanoseconds = np.asarray(self._sampler.sample(calls, rewarm), dtype=np.int64)
            if nanoseconds.shape != (calls,):
                raise ValueError(f"asked for {calls} samples, got shape {nanoseconds.shape}")
            if (nanoseconds < 0).any():
                raise ValueError("the clock went backwards during a call")
        except Exception as error:  # noqa: BLE001 - kept as the cell's outcome, the rest go on
            self._failure = error
            self._finish("failure")
            return None
        seconds = self._clock() - start
        seen = self._surroundings.seen(before, seconds)
        block = Block(nanoseconds, seconds, round_number, seen)
        self._blocks.append(block)
        return block

    def samples(self) -> Samples:
        """Every timed call so far."""
        return samples_of(self._blocks)

    def _finish(self, why: StoppedBy) -> None:
        self._stopped_by = why
        self._report("finished", 1.0)

    def _report(self, phase: Literal["warm-up", "measuring", "finished"], fraction: float) -> None:
        looks = self._stopping.looks if self._stopping else []
        precision = looks[-1].precision if looks else math.inf
        self._fraction = max(self._fraction, min(fraction, 1.0))
        self._on_progress(Progress(self.name, phase, self._kept, precision, self._fraction))
