"""Rows as a table, in the terminal and in Markdown, each number with its interval."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from reports import serving, units
from reports.columns import AXES
from reports.decision import decide, max_drop
from reports.ranking import relative_times

if TYPE_CHECKING:
    from reports.results import Results

Row = Mapping[str, Any]

LOG_COLUMNS = 120


@dataclass(frozen=True)
class Heading:
    """One column as it is shown."""

    title: str
    shown: Callable[[Row], str]
    number: bool = True


def _latency(quantile: str) -> Callable[[Row], str]:
    return lambda row: units.latency(row, quantile)


def _binary(name: str) -> Callable[[Row], str]:
    return lambda row: units.binary(row.get(name))


def _number(name: str) -> Callable[[Row], str]:
    return lambda row: units.number(row.get(name))


def _ratio(name: str) -> Callable[[Row], str]:
    return lambda row: units.NOTHING if row.get(name) is None else f"{row[name]:.2f}"


def _share(name: str) -> Callable[[Row], str]:
    return lambda row: units.NOTHING if row.get(name) is None else f"{100 * row[name]:.2f} %"


def _text(name: str) -> Callable[[Row], str]:
    return lambda row: str(row.get(name) or units.NOTHING)


def _drop(row: Row) -> str:
    return units.bare_drop(row)


_METRICS: tuple[tuple[str, Heading], ...] = (
    ("latency_p50_ms", Heading("p50", _latency("p50"))),
    ("latency_p99_ms", Heading("p99", _latency("p99"))),
    ("speedup", Heading("speed-up", units.speedup)),
    ("throughput_samples_per_s", Heading("samples/s", _number("throughput_samples_per_s"))),
    ("throughput_tokens_per_s", Heading("tokens/s", _number("throughput_tokens_per_s"))),
    ("artifact_bytes", Heading("artifact", _binary("artifact_bytes"))),
    ("artifact_ratio", Heading("of fp32", _ratio("artifact_ratio"))),
    ("memory_peak_bytes", Heading("peak memory", _binary("memory_peak_bytes"))),
    ("memory_waste_ratio", Heading("waste", _share("memory_waste_ratio"))),
    ("accuracy", Heading("accuracy", _share("accuracy"))),
    ("accuracy_drop", Heading("drop, %", _drop)),
    ("bits_per_byte", Heading("bits/byte", _number("bits_per_byte"))),
    ("top1_agreement", Heading("agreement", _share("top1_agreement"))),
)
_AGREEMENT = "top1_agreement"
_ALL = tuple(name for name, _ in _METRICS)
_IN_TERMINAL = (
    "latency_p50_ms",
    "speedup",
    "artifact_bytes",
    "accuracy_drop",
    _AGREEMENT,
)
"""What fits beside the names in a hundred characters; the reports have the rest."""


def headings(rows: Sequence[Row], metrics: Collection[str] = _ALL) -> list[Heading]:
    """The axes that vary (recipe and runtime always), then those ``metrics`` that any row has.

    Agreement with the reference stands in only where there is no accuracy.
    """
    chosen = []
    for axis in ("model", "recipe", "runtime", "attention", "workload", "device"):
        if axis in ("recipe", "runtime") or len({row.get(axis) for row in rows}) > 1:
            chosen.append(Heading(axis, _text(axis), number=False))
    scored = any(row.get("accuracy_drop") is not None for row in rows)
    for name, heading in _METRICS:
        if name not in metrics or (name == _AGREEMENT and scored):
            continue
        if any(row.get(name) is not None for row in rows):
            chosen.append(heading)
    return chosen


def screen() -> Console:
    """Standard output. A pipe or a CI log has no width of its own, and rich would fold tables into
    80 columns."""
    console = Console()
    return console if console.is_terminal else Console(width=LOG_COLUMNS)


def terminal(results: Results) -> Group:
    """What ``assay run`` ends with: the measured rows, what did not run, and what to ship."""
    rows = results.rows
    failures = console_failures(rows)
    parts: list[RenderableType] = []
    decisions = decide(rows, max_drop(results.run))
    for decision in decisions:
        place = (decision.model, decision.workload, decision.device)
        group = [row for row in rows if (row["model"], row["workload"], row["device"]) == place]
        if any(row["status"] == "ok" for row in group):
            parts += [Text(" · ".join(place), style="bold"), console_table(group), Text()]
    if served := serving.load_rows(rows):
        parts += [Text("under load", style="bold"), load_table(served), Text()]
    if failures is not None:
        parts += [Text("not measured", style="bold"), failures, Text()]
    for decision in decisions:
        parts.append(Text(decision.sentence, style="bold"))
        parts += [Text(f"  - {caveat}") for caveat in decision.caveats]
    return Group(*parts)


def sorted_rows(rows: Iterable[Row]) -> list[Row]:
    """Measured rows by model, device, workload and speed."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row["status"] == "ok":
            groups.setdefault((row["model"], row["device"], row["workload"]), []).append(row)
    ordered = []
    for _, group in sorted(groups.items()):
        times = relative_times(group)
        ordered += sorted(group, key=lambda row: times.get(id(row), float("inf")))
    return ordered


def failed_rows(rows: Iterable[Row]) -> list[tuple[str, str, list[Row]]]:
    """(status, reason, rows) of what was not measured, those of one reason together."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["status"] != "ok":
            groups.setdefault((row["status"], row.get("reason") or ""), []).append(row)
    return [(status, reason, members) for (status, reason), members in groups.items()]


def console_table(rows: Sequence[Row]) -> Table:
    """Measured rows for a terminal. Names are shown as they are: no markup in them is obeyed."""
    measured = sorted_rows(rows)
    table = Table(box=None, header_style="bold", pad_edge=False, collapse_padding=True)
    columns = headings(measured, _IN_TERMINAL)
    for heading in columns:
        justify: Any = "right" if heading.number else "left"
        table.add_column(
            heading.title, justify=justify, overflow="fold", no_wrap=not heading.number
        )
    for row in measured:
        table.add_row(*(Text(heading.shown(row)) for heading in columns))
    return table


def load_table(rows: Sequence[Row]) -> Table:
    """Rows of load workloads for a terminal, saturated ones included."""
    table = Table(box=None, header_style="bold", pad_edge=False, collapse_padding=True)
    columns = serving.headings(rows, narrow=True)
    for title, _ in columns:
        name = title in (*AXES, "workload")
        justify: Any = "left" if name else "right"
        table.add_column(title, justify=justify, overflow="fold", no_wrap=not name)
    for row in rows:
        table.add_row(*(Text(shown(row)) for _, shown in columns))
    return table


def console_failures(rows: Sequence[Row]) -> Table | None:
    """What was not measured, with its reasons; None where everything was."""
    groups = failed_rows(rows)
    if not groups:
        return None
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("status", "cells", "reason"):
        table.add_column(title, overflow="fold")
    for status, reason, members in groups:
        table.add_row(Text(status, style="red"), Text(cells_named(members)), Text(reason))
    return table


def cells_named(members: Sequence[Row]) -> str:
    """``int4 on openvino (b1, b8); …``: builds with the workloads that they failed in.

    The model comes first where there are several.
    """
    builds: dict[tuple[str, str, str], list[str]] = {}
    for row in members:
        key = (row["model"], row["recipe"], row["runtime"])
        builds.setdefault(key, []).append(row["workload"])
    several = len({model for model, _, _ in builds}) > 1
    return "; ".join(
        f"{f'{model}: ' if several else ''}{recipe} on {runtime} ({', '.join(workloads)})"
        for (model, recipe, runtime), workloads in builds.items()
    )


def markdown_table(rows: Sequence[Row]) -> str:
    """Measured rows as a Markdown table, or a sentence where there are none."""
    measured = sorted_rows(serving.plain_rows(rows))
    if not measured:
        return "No cell was measured.\n"
    columns = headings(measured)
    lines = [
        _line(heading.title for heading in columns),
        _line("--:" if heading.number else ":--" for heading in columns),
        *(_line(markdown_text(h.shown(row)) for h in columns) for row in measured),
    ]
    return "\n".join(lines) + "\n"


def markdown_load(rows: Sequence[Row]) -> str:
    """Rows of load workloads as a Markdown table."""
    columns = serving.headings(rows, narrow=False)
    lines = [
        _line(title for title, _ in columns),
        _line(":--" for _ in columns),
        *(_line(markdown_text(shown(row)) for _, shown in columns) for row in rows),
    ]
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def markdown_text(text: str) -> str:
    """Text that Markdown and the HTML inside it take as text, on one line."""
    for special, harmless in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(special, harmless)
    for special in "\\`*_|[]#~":
        text = text.replace(special, "\\" + special)
    return " ".join(text.split())
