"""Memory of every build: in use, wasted, and the theoretical minimum beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reports import units
from reports.figures.scale import Scale, round_up
from reports.figures.strips import HEIGHT, Strip, build_label, percent, strips_figure, upright
from reports.figures.svg import Markup, element, join

Row = Mapping[str, Any]

_MIB = 2**20


def memory_figure(rows: Sequence[Row], ship: Row | None) -> Markup | None:
    """Builds of one workload, the smallest first; None where no row has its memory.

    The bar is what the allocators hold: weights, the rest in use, and waste. Where a runtime
    cannot tell, it is what the resident set grew by when the artifact was opened and called.
    """
    bars = [(row, parts) for row in rows if row["status"] == "ok" and (parts := _parts(row))]
    if not bars:
        return None
    bars.sort(key=lambda bar: sum(size for _, size in bar[1]))
    largest = max(
        max(sum(size for _, size in parts), row.get("memory_minimum_bytes") or 0)
        for row, parts in bars
    )
    scale = Scale(0.0, max(largest / _MIB, round_up(largest / _MIB / 5)) * 1.02)
    strips = [
        Strip(
            name=build_label(row),
            drawn=_draw(row, parts, scale),
            value=_value(row, parts),
            hover=_hover(row, parts),
            chosen=row is ship,
        )
        for row, parts in bars
    ]
    return strips_figure(strips, scale, "MiB")


def memory_legend(rows: Sequence[Row]) -> Markup:
    """Keys of the parts that these rows have."""
    kinds = dict.fromkeys(kind for row in rows for kind, _ in _parts(row))
    keys = [_key(element("i", class_=f"swatch {_STYLES[kind]}"), kind) for kind in kinds]
    keys.append(_key(element("i", class_="swatch minimum-key"), "theoretical minimum"))
    return element("div", join(keys), class_="legend")


_STYLES = {
    "weights": "m-weights",
    "other in use": "m-used",
    "waste": "m-waste",
    "grown resident set": "m-grown",
}


def _parts(row: Row) -> list[tuple[str, float]]:
    """The bar's segments in bytes, from the left."""
    reserved, used = row.get("memory_reserved_bytes"), row.get("memory_in_use_bytes")
    weights = row.get("memory_weights_bytes") or 0
    if reserved is not None and used is not None:
        # Weights mapped from a file are not the allocator's, and can be more than it hands out.
        inside = min(weights, used)
        parts = [("weights", inside), ("other in use", used - inside), ("waste", reserved - used)]
    else:
        resident, baseline = row.get("memory_resident_bytes"), row.get("memory_baseline_bytes")
        if resident is None or baseline is None:
            return [("weights", weights)] if weights else []
        grown = max(resident - baseline, 0)
        parts = [("weights", min(weights, grown)), ("grown resident set", max(grown - weights, 0))]
    return [(kind, size) for kind, size in parts if size > 0]


def _draw(row: Row, parts: list[tuple[str, float]], scale: Scale) -> Markup:
    drawn, start = [], 0.0
    for kind, size in parts:
        width = scale((start + size) / _MIB) - scale(start / _MIB)
        drawn.append(
            element(
                "rect",
                x=percent(scale(start / _MIB)),
                y=5,
                width=percent(width),
                height=HEIGHT - 10,
                class_=_STYLES[kind],
            )
        )
        start += size
    if (minimum := row.get("memory_minimum_bytes")) is not None:
        drawn.append(upright(scale, minimum / _MIB, "minimum", inset=2))
    return join(drawn)


def _value(row: Row, parts: list[tuple[str, float]]) -> Markup:
    total = sum(size for _, size in parts)
    waste = row.get("memory_waste_bytes")
    note = "" if not waste or not total else f" {100 * waste / total:.0f} % waste"
    return join([element("b", units.binary(total)), element("span", note, class_="dim interval")])


def _hover(row: Row, parts: list[tuple[str, float]]) -> str:
    lines = [f"{kind} {units.binary(size)}" for kind, size in parts]
    named = {
        "theoretical minimum": "memory_minimum_bytes",
        "resident set": "memory_resident_bytes",
        "peak": "memory_peak_bytes",
        "libraries before opening": "memory_baseline_bytes",
    }
    lines += [
        f"{name} {units.binary(row[column])}"
        for name, column in named.items()
        if row.get(column) is not None
    ]
    return "\n".join(lines)


def _key(swatch: Markup, name: str) -> Markup:
    return element("span", swatch, element("span", name), class_="key")
