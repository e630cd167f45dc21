"""What the processes of a cell say together: its row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from suites import rows
from suites.cell import Cell
from suites.measure.joined import of_processes
from suites.measure.measurement import Measurement
from suites.measure.plan import MeasurePlan
from suites.measure.ratio import ratios
from suites.phase import Outcome, Visit
from suites.suite import FP32

FIDELITY = (
    *("max_abs_error", "max_rel_error", "relative_error", "top1_agreement"),
    *("fidelity_predictions", "kl_divergence", "tolerance"),
)


def outcomes(visits: Mapping[Cell, Sequence[Visit]], plan: MeasurePlan) -> list[Outcome]:
    """The cells of one workload that took turns with each other, from their visits in order.

    A cell that failed in one process has failed; its calls before that are kept as samples, and no
    figure of a build that fails is told. What was measured after the clock is that of one process,
    the one whose median is in the middle, so that it belongs together; seconds are added up.
    """
    measured = {cell: _measurement(each, plan.confidence) for cell, each in visits.items()}
    steady = {cell.id: m for cell, m in measured.items() if m is not None and m.status == "ok"}
    compared = ratios(steady, plan.confidence)
    plain = {
        (cell.runtime, cell.attention, cell.device): cell.id
        for cell in visits
        if cell.recipe == FP32
    }
    found = []
    for cell, each in visits.items():
        measurement, failure = measured[cell], each[-1].failure
        columns = {**each[-1].circumstances, **_sums(each)}
        if measurement is not None:
            columns |= rows.latency(measurement)
            columns |= rows.conditions(measurement.conditions)
            columns |= rows.comparison(
                compared.get(cell.id, {}), plain.get((cell.runtime, cell.attention, cell.device))
            )
            columns |= {"status": measurement.status, "reason": measurement.reason or None}
        if failure is not None:
            columns |= {**each[-1].said, **rows.failure(failure)}
            if plan.processes > 1:
                columns["reason"] += f" (process {len(each)} of {plan.processes})"
        else:
            columns |= said(each)
        if columns.get("status") == "ok":
            middle = _in_the_middle(each)
            columns |= {**middle.circumstances, **middle.figures}
        samples = None if measurement is None else rows.samples(measurement)
        found.append(Outcome(cell, columns, samples))
    return found


def hopeless(visits: Sequence[Visit], processes: int) -> bool:
    """Whether the cell was not stationary in so many processes that more of them change nothing."""
    unsteady = sum(v.measurement is not None and v.measurement.status != "ok" for v in visits)
    return 2 * unsteady >= processes


def said(visits: Sequence[Visit]) -> dict[str, Any]:
    """What the processes said of their runs: the first one's words, the worst one's fidelity, and
    in ``fallback`` whatever another did otherwise."""
    columns = dict(visits[0].said)
    worst = max(visits, key=lambda visit: visit.said.get("relative_error") or 0.0)
    columns |= {name: worst.said[name] for name in FIDELITY if name in worst.said}
    fallbacks = dict.fromkeys(v.said["fallback"] for v in visits if v.said.get("fallback"))
    unlike = [
        name
        for name in columns
        if name not in (*FIDELITY, "fallback")
        and any(visit.said.get(name) != columns[name] for visit in visits)
    ]
    if unlike:
        fallbacks[f"processes differ in {', '.join(unlike)}"] = None
    if fallbacks:
        columns["fallback"] = "; ".join(fallbacks)
    return columns


def _measurement(visits: Sequence[Visit], confidence: float) -> Measurement | None:
    found = [each.measurement for each in visits if each.measurement is not None]
    if not found:
        return None
    joined = of_processes(found, confidence)
    if visits[-1].failure is None:
        return joined
    return replace(joined, status="error", quantiles={})


def _in_the_middle(visits: Sequence[Visit]) -> Visit:
    """Of those that have figures, the one with the middle median, of two the faster."""
    timed = [visit for visit in visits if visit.figures]
    ordered = sorted(timed, key=_median)
    return ordered[(len(ordered) - 1) // 2]


def _median(visit: Visit) -> float:
    assert visit.measurement is not None, "figures are measured after the clock"
    return float(np.median(visit.measurement.samples.kept))


def _sums(visits: Sequence[Visit]) -> dict[str, float]:
    names = dict.fromkeys(name for each in visits for name in each.spent)
    return {name: float(np.sum([each.spent.get(name, 0.0) for each in visits])) for name in names}
