"""A comparison in the forms in which it is told: a terminal, Markdown, JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from reports import units
from reports.compare import MEMORY, Comparison, SideBySide
from reports.comparison.agreement import listed
from reports.comparison.judgement import VERDICTS, Judgement, Row
from reports.errors import ReportError
from reports.store import write_whole
from reports.tables import markdown_text

SCHEMA_VERSION = 1
_COLORS = {"worse": "red", "not comparable": "yellow", "better": "green", "same": "default"}
_LATENCY = (
    *("latency_p50_ms", "latency_p50_low_ms", "latency_p50_high_ms"),
    *("latency_p99_ms", "latency_p99_low_ms", "latency_p99_high_ms"),
    *("speedup", "speedup_low", "speedup_high", "throughput_samples_per_s"),
)
_JUDGED = ("verdict", "what", "cell", "before", "after", "found")
_TIMED = ("cell", "p50 before", "p50 after", "speed-up before", "speed-up after", "comparable")
_HELD = ("cell", "peak before", "peak after", "waste before", "waste after", "comparable")


def terminal(comparison: Comparison) -> Group:
    """What differs, each interval of accuracy, what is not judged, and the verdict last.
    Names are shown as they are: no markup in them is obeyed."""
    shown = [j for j in _ordered(comparison) if j.verdict != "same" or j.metric == "accuracy"]
    parts: list[RenderableType] = [Text(f"{comparison.after} against {comparison.before}")]
    parts += [Text(f"note: {note}") for note in _notes(comparison)]
    if shown:
        parts += [Text(), _table(_JUDGED, map(_judged, shown))]
    if comparison.latencies:
        parts += [
            Text("\nlatency: side by side, never judged", style="bold"),
            _table(_TIMED, (_timed(comparison, pair) for pair in comparison.latencies)),
        ]
    if comparison.memory:
        parts += [
            Text("\nmemory: side by side, never judged", style="bold"),
            _table(_HELD, map(_held, comparison.memory)),
        ]
    color = _COLORS[comparison.verdict]
    return Group(*parts, Text(f"\n{_conclusion(comparison)}", style=f"bold {color}"))


def write(comparison: Comparison, folder: Path) -> None:
    """``compare.md`` and ``compare.json``. Raises ReportError for a folder that cannot be
    written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ReportError(f"{folder} cannot be made: {error.strerror}") from error
    text = json.dumps(to_json(comparison), indent=1, default=str)
    write_whole(folder / "compare.json", text.encode() + b"\n")
    write_whole(folder / "compare.md", markdown(comparison).encode())


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Everything, with the numbers behind each line."""
    return {
        "version": SCHEMA_VERSION,
        "before": comparison.before,
        "after": comparison.after,
        "verdict": comparison.verdict,
        "exit_code": comparison.exit_code,
        "notes": list(comparison.notes),
        "environment": [vars(difference) for difference in comparison.environment],
        "judgements": [vars(judgement) for judgement in comparison.judgements],
        "latencies": [
            _side_by_side(pair, _LATENCY, not (comparison.environment or pair.unlike))
            for pair in comparison.latencies
        ],
        "memory": [_side_by_side(pair, MEMORY, not pair.unlike) for pair in comparison.memory],
    }


def _side_by_side(pair: SideBySide, names: Sequence[str], comparable: bool) -> dict[str, Any]:
    return {
        "cell": pair.cell,
        "comparable": comparable,
        "unlike": [vars(difference) for difference in pair.unlike],
        "before": {name: pair.before.get(name) for name in names},
        "after": {name: pair.after.get(name) for name in names},
    }


def markdown(comparison: Comparison) -> str:
    """Every judgement, also where all is the same."""
    place = markdown_text(f"{comparison.after} against {comparison.before}")
    lines = [f"## {_conclusion(comparison)}", "", place, ""]
    lines += [f"- {markdown_text(note)}" for note in _notes(comparison)]
    lines += ["", *_markdown_table(_JUDGED, map(_judged, _ordered(comparison)))]
    if comparison.latencies:
        rows = (_timed(comparison, pair) for pair in comparison.latencies)
        lines += ["", "### Latency: side by side, never judged", "", *_markdown_table(_TIMED, rows)]
    if comparison.memory:
        held = map(_held, comparison.memory)
        lines += ["", "### Memory: side by side, never judged", "", *_markdown_table(_HELD, held)]
    return "\n".join(lines) + "\n"


def _conclusion(comparison: Comparison) -> str:
    return f"{comparison.verdict.upper()}: {comparison.summary()}"


def _notes(comparison: Comparison) -> list[str]:
    if not comparison.environment:
        return [*comparison.notes, "the environments agree"]
    return [*comparison.notes, f"the environments differ: {listed(comparison.environment)}"]


def _ordered(comparison: Comparison) -> list[Judgement]:
    return sorted(comparison.judgements, key=lambda j: VERDICTS.index(j.verdict))


def _judged(judgement: Judgement) -> Sequence[str]:
    named = (judgement.verdict, judgement.metric, judgement.where)
    return (*named, judgement.before, judgement.after, judgement.seen)


def _timed(comparison: Comparison, pair: SideBySide) -> Sequence[str]:
    reasons = ["the environments differ"] if comparison.environment else []
    reasons += [str(difference) for difference in pair.unlike]
    told = f"not comparable: {'; '.join(reasons)}" if reasons else "alike, on another day"
    rows = (pair.before, pair.after)
    return (pair.cell, *map(_p50, rows), *map(units.speedup, rows), told)


def _held(pair: SideBySide) -> Sequence[str]:
    rows = (pair.before, pair.after)
    readings = [units.binary(row.get(name)) for name in MEMORY for row in rows]
    told = f"not comparable: {listed(pair.unlike)}" if pair.unlike else "one reading each"
    return (pair.cell, *readings, told)


def _p50(row: Row) -> str:
    return units.latency(row) if row["status"] == "ok" else row["status"]


def _table(titles: Iterable[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(Text(value, style=_COLORS.get(value, "")) for value in row))
    return table


def _markdown_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [titles, ["---"] * len(titles), *([markdown_text(v) for v in row] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]
