"""``report.md``: the same answer for a terminal, a pull request or a mail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reports.decision import Decision
from reports.provenance import flatten
from reports.serving import NOTE, load_rows
from reports.tables import (
    cells_named,
    failed_rows,
    markdown_load,
    markdown_table,
    markdown_text,
)
from reports.wording import build_name

Row = Mapping[str, Any]


NO_DECISION = (
    "Nothing is recommended: every workload is under load, and what is recommended rests on calls "
    "made one after the other. Add a workload without `load` for that.\n"
)


def render(rows: Sequence[Row], run: Mapping[str, Any], decisions: Sequence[Decision]) -> str:
    """The whole report as Markdown."""
    parts = [f"# {markdown_text(str(run.get('suite') or 'Assay'))}\n", "## What to ship\n"]
    for decision in decisions:
        parts.append(f"**{markdown_text(decision.sentence)}**\n")
        notes = [*decision.caveats]
        aside = (*decision.refused, *decision.unranked)
        notes += [f"Not considered: {build_name(row)}: {why}." for row, why in aside]
        if notes:
            parts.append("\n".join(f"- {markdown_text(note)}" for note in notes) + "\n")
    if not decisions:
        parts.append(NO_DECISION if any(r.get("load") for r in rows) else "The run has no cell.\n")
    served = load_rows(rows)
    if decisions or not served:
        parts += ["## Measured\n", markdown_table(rows)]
    if served:
        parts += ["## Under load\n", f"{NOTE}\n", markdown_load(served)]
    parts += ["## What did not run\n", _failures(rows)]
    environment = {**(run.get("environment") or {}), "versions": run.get("versions")}
    if facts := list(flatten(environment)):
        parts.append("## Environment\n")
        parts.append(
            "\n".join(f"- {markdown_text(n)}: {markdown_text(v)}" for n, v in facts) + "\n"
        )
    parts += ["## How to reproduce\n", *_reproduce(run)]
    return "\n".join(parts)


def _failures(rows: Sequence[Row]) -> str:
    groups = failed_rows(rows)
    if not groups:
        return "Nothing: every cell was measured.\n"
    return (
        "\n".join(
            f"- {status}: {markdown_text(cells_named(members))}: {markdown_text(reason)}"
            for status, reason, members in groups
        )
        + "\n"
    )


def _reproduce(run: Mapping[str, Any]) -> list[str]:
    parts = []
    if command := run.get("command"):
        parts.append(_fenced(command if isinstance(command, str) else " ".join(map(str, command))))
    if facts := list(flatten(run.get("git") or {}, "git")):
        parts.append("\n".join(f"- {markdown_text(n)}: {markdown_text(v)}" for n, v in facts))
        parts.append("")
    if suite := run.get("suite_text"):
        parts.append("The suite:\n")
        parts.append(_fenced(str(suite), "toml"))
    return parts


def _fenced(text: str, language: str = "") -> str:
    """A code block whose fence is longer than any run of backticks inside."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text.rstrip()}\n{fence}\n"
