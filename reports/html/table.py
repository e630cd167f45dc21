"""Every cell with every column: sortable, filterable, its columns switched on by the group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reports import units
from reports.columns import COLUMNS, Column
from reports.figures.svg import Markup, element, join

Row = Mapping[str, Any]

_GROUPS = (
    (
        "latency",
        (
            *("latency_", "insufficient", "samples", "effective_samples", "warmup_", "looks"),
            *("drift", "own_drift", "speedup", "processes"),
        ),
    ),
    ("throughput", ("throughput_",)),
    (
        "load",
        (
            *("load", "burstiness", "concurrency", "slots", "slo", "back_to_back_", "request"),
            *("offered_", "achieved_", "occupied_", "backlog_", "episodes", "effective_requests"),
            *("e2el_", "queue_", "service_", "utilisation", "max_concurrent_", "capacity_"),
        ),
    ),
    ("energy", ("energy_",)),
    ("machine", ("disturbed_", "machine_")),
    ("size", ("artifact_bytes", "artifact_ratio", "weights_ratio")),
    ("memory", ("memory_", "page_faults_")),
    (
        "accuracy",
        (
            "task",
            "metric",
            "accuracy",
            "examples",
            "flips",
            "top1_",
            "kl_",
            "relative_error",
            "perplexity",
            "bits_",
        ),
    ),
    ("correctness", ("max_abs_", "max_rel_", "tolerance", "fidelity_")),
    ("contract", ("contract_",)),
    (
        "proof",
        ("providers", "kernels", "integer_", "casts", "graph_", "attention_kernel", "fallback"),
    ),
    (
        "details",
        ("reason", "batch", "sequence", "past", "kind", "artifact_key", "block", "order"),
    ),
    (
        "time",
        ("build_s", "start_s", "open_s", "accuracy_s", "timed_s", "overhead_s", "finished_at"),
    ),
)
_ALWAYS = ("model", "recipe", "runtime", "attention", "workload", "device", "status")
_SHOWN = (
    "latency_p50_ms",
    "latency_p99_ms",
    "speedup",
    "throughput_samples_per_s",
    "artifact_bytes",
    "memory_peak_bytes",
    "accuracy_drop",
)
"""Columns that are seen at first, whichever groups are switched off."""
_WITH_INTERVAL = ("latency_p50", "latency_p90", "latency_p99")
_LEFT_OUT = ("cell_id", "suite", "lineage", "compared")


def cells_table(rows: Sequence[Row]) -> Markup | None:
    """The table with its controls; without the script it is still all there to read."""
    if not rows:
        return None
    columns = [c for c in COLUMNS if c.name not in _LEFT_OUT and _said(c.name, rows)]
    groups = [name for name, _ in _GROUPS if any(_group(c) == name for c in columns)]
    body = [element("tr", join([_cell(c, row) for c in columns])) for row in rows]
    table = element(
        "table",
        element("thead", element("tr", join([_heading(c) for c in columns]))),
        element("tbody", join(body)),
        id="cells-table",
    )
    return join([_controls(rows, groups), element("div", table, class_="scroll", tabindex=0)])


def _said(name: str, rows: Sequence[Row]) -> bool:
    """Whether a column has something to say: an axis always, the rest where a row has it."""
    if name == "attention":
        return any((row.get(name) or "default") != "default" for row in rows)
    return name in _ALWAYS or any(row.get(name) is not None for row in rows)


def _group(column: Column) -> str:
    for name, starts in _GROUPS:
        if column.name not in _ALWAYS and column.name.startswith(starts):
            return name
    return ""


def _controls(rows: Sequence[Row], groups: Sequence[str]) -> Markup:
    statuses = dict.fromkeys(row["status"] for row in rows)
    options = [element("option", "any status", value="")]
    options += [element("option", status, value=status) for status in statuses]
    chips = [
        element(
            "label",
            element("input", type="checkbox", data_group=name),
            element("span", name),
            class_="chip",
        )
        for name in groups
    ]
    return element(
        "div",
        element(
            "input",
            type="search",
            id="filter",
            placeholder="Filter: int8 openvino …",
            aria_label="Filter the cells by words",
        ),
        element("select", join(options), id="status", aria_label="Filter the cells by status"),
        element("span", f"{len(rows)} cells", id="count", aria_live="polite", class_="dim"),
        element("span", "all columns of:", class_="dim"),
        join(chips),
        class_="controls",
    )


def _classes(column: Column) -> str:
    group = _group(column)
    hidden = group and column.name not in _SHOWN
    parts = [f"g-{group}" if hidden else "", "num" if column.dtype in ("int", "float") else ""]
    return " ".join(part for part in parts if part)


def _heading(column: Column) -> Markup:
    unit = f" Unit: {column.unit}." if column.unit else ""
    return element(
        "th",
        element(
            "button",
            _short_name(column),
            title=f"{column.name}\n{column.doc}{unit}",
            type="button",
        ),
        scope="col",
        class_=_classes(column) or None,
    )


def _short_name(column: Column) -> str:
    name = column.name
    for suffix, shown in (("_per_s", "/s"), ("_ms", ""), ("_bytes", ""), ("_s", "")):
        if name.endswith(suffix):
            name = name.removesuffix(suffix) + shown
            break
    return name.replace("_", " ")


def _cell(column: Column, row: Row) -> Markup:
    value = row.get(column.name)
    title = row.get("reason") if column.name == "status" else None
    style = _classes(column)
    if column.name == "status":
        style = f"{style} status s-{'ok' if value == 'ok' else 'failed'}".strip()
    sort = value if isinstance(value, int | float) else None
    return element(
        "td", _shown(column, value, row), class_=style or None, data_v=_sortable(sort), title=title
    )


def _sortable(value: float | None) -> str | None:
    return None if value is None else repr(float(value))


def _shown(column: Column, value: Any, row: Row) -> Markup | str:
    name = column.name
    for quantile in _WITH_INTERVAL:
        if name == f"{quantile}_ms":
            return _number_with_interval(units.latency(row, quantile.removeprefix("latency_")))
    if value is None:
        return units.NOTHING
    if name == "speedup":
        return _number_with_interval(units.speedup(row))
    if name == "accuracy_drop":
        return _number_with_interval(units.accuracy_drop(row).replace(" points", " pt"))
    if column.dtype == "bool":
        return "yes" if value else "no"
    if column.unit == "bytes":
        return units.binary(value)
    if column.unit == "s":
        return units.seconds(value)
    if column.dtype in ("int", "float"):
        return f"{value:,}" if isinstance(value, int) else units.number(value)
    return str(value)


def _number_with_interval(shown: str) -> Markup:
    number, interval = units.parted(shown)
    if not interval:
        return element("span", number, class_="dim" if number == "insufficient" else None)
    return join([element("span", number), element("small", interval)])
