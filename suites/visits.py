"""What the processes of a cell say together: its row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from suites import rows
from suites.cell import Cell
from suites.measure.measurement import Measurement
from suites.measure.processes import of_processes
from suites.measure.ratio import ratios
from suites.phase import Outcome, Visit
from suites.suite import FP32


def outcomes(visits: Mapping[Cell, Sequence[Visit]], confidence: float) -> list[Outcome]:
    """The cells of one workload that took turns with each other, from their visits in order.

    A cell that failed in one process has failed. What every process repeats is told of the first,
    figures of one process as the median over them, seconds as their sum.
    """
    measured = {cell: _measurement(each, confidence) for cell, each in visits.items()}
    failures = {
        cell: next((v.failure for v in each if v.failure), None) for cell, each in visits.items()
    }
    steady = {
        cell.id: m
        for cell, m in measured.items()
        if m is not None and m.status == "ok" and failures[cell] is None
    }
    compared = ratios(steady, confidence)
    plain = {
        (cell.runtime, cell.attention, cell.device): cell.id
        for cell in visits
        if cell.recipe == FP32
    }
    found = []
    for cell, each in visits.items():
        measurement, failure = measured[cell], failures[cell]
        columns = {**each[0].said, **_typical(each), **_sums(each)}
        if measurement is not None:
            if failure is not None:
                # What it did before is kept as samples, and is no latency of a build that fails.
                measurement = replace(measurement, quantiles={})
            columns |= rows.latency(measurement)
            columns |= rows.conditions(measurement.conditions)
            columns |= rows.comparison(
                compared.get(cell.id, {}), plain.get((cell.runtime, cell.attention, cell.device))
            )
            columns |= {"status": measurement.status, "reason": measurement.reason or None}
        if failure is not None:
            columns |= rows.failure(failure)
        samples = None if measurement is None else rows.samples(measurement)
        found.append(Outcome(cell, columns, samples))
    return found


def _measurement(visits: Sequence[Visit], confidence: float) -> Measurement | None:
    found = [each.measurement for each in visits if each.measurement is not None]
    return of_processes(found, confidence) if found else None


def _typical(visits: Sequence[Visit]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in dict.fromkeys(name for each in visits for name in each.figures):
        told = [each.figures[name] for each in visits if each.figures.get(name) is not None]
        numbers = bool(told) and all(isinstance(value, int | float) for value in told)
        # Of an even number the lower: a figure that some process had.
        typical = sorted(told)[(len(told) - 1) // 2] if numbers else next(iter(told), None)
        found[name] = typical
    return found


def _sums(visits: Sequence[Visit]) -> dict[str, float]:
    names = dict.fromkeys(name for each in visits for name in each.spent)
    return {name: float(np.sum([each.spent.get(name, 0.0) for each in visits])) for name in names}
