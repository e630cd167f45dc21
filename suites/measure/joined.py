"""One measurement from the measurements of one cell in several processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from suites.measure.measurement import Conditions, Measurement, Processes, Samples, Status
from suites.measure.meters.meter import Seen
from suites.measure.meters.surroundings import pooled as pooled_figures
from suites.measure.plan import FEWEST_PROCESSES
from suites.measure.processes import deviation_of, quantiles_of, spread_of


def of_processes(found: Sequence[Measurement], confidence: float = 0.95) -> Measurement:
    """The measurements of one cell in several processes as one, in their order.

    ``ok`` where every process could be measured to its end, ``FEWEST_PROCESSES`` have calls after
    their warm-up, and the cell was not stationary in fewer than half of all: one that drifted is
    one draw like the others, with its calls; a cell that mostly drifts has no latency. Values are
    ``balanced_quantile``s; for their intervals see ``between`` and ``tail_interval``.

    A single measurement comes back as it is.
    """
    if len(found) == 1:
        return found[0]
    samples = _joined([each.samples for each in found])
    parts = [each.samples.kept for each in found if each.samples.kept.size]
    status, reason = _verdict(found, len(parts))
    kept = samples.kept
    ok = status == "ok"
    medians = np.array([float(np.median(part)) for part in parts])
    return Measurement(
        status=status,
        reason=reason,
        stopped_by=next((m.stopped_by for m in found if m.stopped_by != "precision"), "precision"),
        samples=samples,
        looks=tuple(look for each in found for look in each.looks),
        quantiles=quantiles_of(parts, confidence) if ok else {},
        minimum_ns=int(kept.min()) if ok else None,
        mad_ns=deviation_of(parts) if ok else None,
        warmup_calls=sum(each.warmup_calls for each in found),
        warmup_seconds=sum(each.warmup_seconds for each in found),
        conditions=_conditions(found),
        drift=_largest([each.drift for each in found]),
        own_drift=_largest([each.own_drift for each in found]),
        failure=next((each.failure for each in found if each.failure is not None), None),
        processes=Processes(len(parts), _unsteady(found), spread_of(medians)) if parts else None,
    )


def _verdict(found: Sequence[Measurement], usable: int) -> tuple[Status, str]:
    for each in found:
        if each.status == "error":
            return "error", each.reason
    unsteady = [each for each in found if each.status == "not-stationary"]
    if 2 * len(unsteady) >= len(found) or usable < FEWEST_PROCESSES:
        return "not-stationary", (
            f"in {len(unsteady)} of {len(found)} processes; the first: {unsteady[0].reason}"
            if unsteady
            else f"only {usable} of {len(found)} processes have calls after their warm-up"
        )
    return "ok", ""


def _unsteady(found: Sequence[Measurement]) -> int:
    return sum(each.status == "not-stationary" for each in found)


def _largest(changes: Sequence[float | None]) -> float | None:
    return max((c for c in changes if c is not None), key=abs, default=None)


def _joined(parts: Sequence[Samples]) -> Samples:
    lengths = [len(part.nanoseconds) for part in parts]
    turns = np.cumsum([0, *(int(part.block.max(initial=-1)) + 1 for part in parts)])
    causes = [part.cause for part in parts if part.cause is not None]
    return Samples(
        nanoseconds=np.concatenate([part.nanoseconds for part in parts]),
        warmup=np.concatenate([part.warmup for part in parts]),
        block=np.concatenate(
            [part.block + turn for part, turn in zip(parts, turns, strict=False)]
        ).astype(np.int32),
        round=np.concatenate([part.round for part in parts]),
        disturbed=np.concatenate([part.disturbed for part in parts]),
        cause=np.concatenate(causes) if len(causes) == len(parts) else None,
        process=np.repeat(np.arange(len(parts), dtype=np.int32), lengths),
    )


def _conditions(found: Sequence[Measurement]) -> Conditions:
    told = [each for each in found if each.samples.kept.size]
    figures = pooled_figures(
        [Seen(each.conditions.figures) for each in told],
        [float(each.samples.kept.sum()) for each in told],
    )
    counts: Counter[str] = Counter()
    for each in told:
        counts.update(each.conditions.disturbed_by or {})
    disturbed = [each.conditions.disturbed_calls for each in told]
    if not told or any(calls is None for calls in disturbed):
        return Conditions(figures=figures)
    return Conditions(sum(calls or 0 for calls in disturbed), dict(counts), figures)
