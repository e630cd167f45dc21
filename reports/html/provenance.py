"""The end of the page: what did not run, on what machine, and how to do it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reports.figures.svg import Markup, element, join
from reports.provenance import flatten
from reports.tables import failed_rows

Row = Mapping[str, Any]

_ASKED = ("suite_path", "suite_sha256", "only", "seed", "max_drop", "data", "git")
_SHOWN_APART = (
    *_ASKED,
    "suite",
    "suite_text",
    "command",
    "environment",
    "runtimes",
    "versions",
    "resumed",
)


def failures(rows: Sequence[Row]) -> Markup | None:
    """Cells that have no latency, those with one status and reason together."""
    groups = failed_rows(rows)
    if not groups:
        return element("p", "Nothing: every cell was measured.", class_="note")
    lines = [
        element(
            "tr",
            element("td", element("span", status, class_="status s-failed")),
            element("td", _cells(members)),
            element("td", reason),
        )
        for status, reason, members in groups
    ]
    head = element(
        "tr", *(element("th", name, scope="col") for name in ("status", "cells", "reason"))
    )
    table = element("table", element("thead", head), element("tbody", join(lines)))
    return element("div", table, class_="scroll reasons")


def _cells(members: Sequence[Row]) -> Markup:
    """``int4 · openvino · b1, b8``, one line a build."""
    builds: dict[tuple[str, str, str], list[str]] = {}
    for row in members:
        key = (row["model"], row["recipe"], row["runtime"])
        builds.setdefault(key, []).append(row["workload"])
    return join(
        [
            element(
                "div",
                element("b", recipe),
                f" on {runtime} ",
                element("span", f"{model} · {', '.join(workloads)}", class_="dim"),
            )
            for (model, recipe, runtime), workloads in builds.items()
        ]
    )


def environment(run: Mapping[str, Any]) -> Markup | None:
    """What the run says of its machine, and of its machines if it was resumed."""
    parts = []
    machine = dict(run.get("environment") or {})
    if run.get("versions"):
        machine.pop("versions", None)
    rest = {name: value for name, value in run.items() if name not in _SHOWN_APART}
    if facts := [*flatten(machine), *flatten(rest)]:
        parts.append(_facts(facts))
    if isinstance(run.get("runtimes"), Mapping):
        parts.append(_folded("Runtimes", _facts(_availability(run["runtimes"]))))
    if versions := list(flatten(run.get("versions") or {})):
        parts.append(_folded("Library versions", _facts(versions)))
    for i, again in enumerate(run.get("resumed") or (), 1):
        parts.append(_folded(f"Resumed ({i})", _facts(list(flatten(again)))))
    return join(parts) if parts else None


def _availability(runtimes: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Each runtime with what it stands on, or why it could not be used and what would help."""
    lines = []
    for name, found in runtimes.items():
        if not isinstance(found, Mapping):
            lines.append((name, str(found)))
        elif found.get("available"):
            versions = ", ".join(f"{k} {v}" for k, v in (found.get("versions") or {}).items())
            lines.append((name, versions or "available"))
        else:
            said = (found.get("reason"), found.get("way_out"))
            lines.append((name, ": ".join(str(part) for part in said if part) or "unavailable"))
    return lines


def reproduce(run: Mapping[str, Any]) -> Markup | None:
    """The command, the commit, and the suite's text in full."""
    parts = []
    if command := run.get("command"):
        line = command if isinstance(command, str) else " ".join(map(str, command))
        parts.append(element("pre", line))
    facts = [fact for name in _ASKED for fact in flatten(run.get(name), name)]
    if facts:
        parts.append(_facts(facts))
    if suite := run.get("suite_text"):
        parts.append(_folded("The suite", element("pre", str(suite)), is_open=True))
    return join(parts) if parts else None


def _facts(facts: Sequence[tuple[str, str]]) -> Markup:
    items = [
        element("div", element("dt", name.replace("_", " ")), element("dd", value))
        for name, value in facts
    ]
    return element("dl", join(items), class_="facts")


def _folded(title: str, content: Markup, is_open: bool = False) -> Markup:
    return element("details", element("summary", title), content, open=is_open)
