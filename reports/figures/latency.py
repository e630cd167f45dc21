"""Latency of every build: the median with its interval, p99, and the samples behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reports import units
from reports.figures.marks import Marks
from reports.figures.scale import Scale, positive_scale
from reports.figures.strips import (
    HEIGHT,
    MIDDLE,
    Strip,
    build_label,
    number_beside_interval,
    percent,
    strips_figure,
    upright,
    whisker,
)
from reports.figures.svg import Markup, element, join
from reports.ranking import relative_times, was_timed

Row = Mapping[str, Any]

_BINS = 72


def latency_figure(
    rows: Sequence[Row], samples: Mapping[str, np.ndarray], ship: Row | None, marks: Marks
) -> Markup | None:
    """Builds of one workload, the fastest first; None where none was measured.

    ``samples`` has some of each cell's latencies in ms by ``cell_id``.
    """
    times = relative_times(rows)
    rows = sorted((row for row in rows if was_timed(row)), key=lambda row: times[id(row)])
    if not rows:
        return None
    ends = [
        row.get(name)
        for row in rows
        for name in (
            *("latency_min_ms", "latency_p50_ms"),
            *("latency_p50_low_ms", "latency_p50_high_ms"),
        )
    ]
    ends += [_tail(row, samples) for row in rows]
    scale = positive_scale(ends, margin=0.03)
    strips = [
        Strip(
            name=build_label(row),
            drawn=_draw(row, samples.get(row["cell_id"]), scale, marks),
            value=number_beside_interval(units.latency(row)),
            hover=_hover(row),
            chosen=row is ship,
        )
        for row in rows
    ]
    return strips_figure(strips, scale, "ms, log scale" if scale.log else "ms")


def _tail(row: Row, samples: Mapping[str, np.ndarray]) -> float | None:
    if row.get("latency_p99_ms") is not None:
        return row["latency_p99_ms"]
    cell = samples.get(row["cell_id"])
    return None if cell is None or not len(cell) else float(np.quantile(cell, 0.98))


def _draw(row: Row, samples: np.ndarray | None, scale: Scale, marks: Marks) -> Markup:
    colour = marks.colour(row["runtime"])
    parts = [_ridge(samples, scale, colour)]
    low, high = row.get("latency_p50_low_ms"), row.get("latency_p50_high_ms")
    parts.append(whisker(scale, low, high, f"whisker {colour}"))
    if (p99 := row.get("latency_p99_ms")) is not None:
        parts.append(upright(scale, p99, f"tail {colour}", inset=5))
    if (p50 := row.get("latency_p50_ms")) is not None:
        parts.append(marks.mark(row["runtime"], 64, percent(scale(p50)), MIDDLE))
    return join([part for part in parts if part is not None])


def _ridge(samples: np.ndarray | None, scale: Scale, colour: str) -> Markup | None:
    """The samples' histogram, mirrored about the row's middle, on the figure's own axis."""
    if samples is None or len(samples) < 8:
        return None
    places = np.array([scale(float(value)) for value in samples])
    counts, _ = np.histogram(places, bins=_BINS, range=(0.0, 1.0))
    filled = np.flatnonzero(counts)
    if not len(filled):
        return None
    first, last = max(filled[0] - 1, 0), min(filled[-1] + 1, _BINS - 1)
    smooth = np.convolve(counts, [0.25, 0.5, 0.25], mode="same")
    half = (HEIGHT / 2 - 2) * np.sqrt(smooth / smooth.max())
    bins = range(first, last + 1)
    upper = [f"{i + 0.5:.1f},{MIDDLE - half[i]:.1f}" for i in bins]
    lower = [f"{i + 0.5:.1f},{MIDDLE + half[i]:.1f}" for i in reversed(bins)]
    return element(
        "svg",
        element("polygon", points=" ".join(upper + lower), class_=f"ridge {colour}"),
        viewBox=f"0 0 {_BINS} {HEIGHT}",
        preserveAspectRatio="none",
        width="100%",
        height=HEIGHT,
    )


def _hover(row: Row) -> str:
    lines = [f"p50 {units.latency(row)}"]
    lines += [f"{name} {units.latency(row, name)}" for name in ("p90", "p99")]
    if row.get("samples") is not None:
        worth = row.get("effective_samples")
        lines.append(
            f"{row['samples']:,} samples"
            + ("" if worth is None else f", worth {worth:,.0f} independent ones")
        )
    return "\n".join(lines)
