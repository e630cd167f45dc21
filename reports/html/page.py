"""The page: sections in order, with the style and the script inside it and nothing fetched."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np

from reports.decision import ALLOWED_DROP, Decision
from reports.figures.accuracy import accuracy_figure
from reports.figures.cost import DROP
from reports.figures.latency import latency_figure
from reports.figures.lineage import lineage_figure
from reports.figures.marks import Marks
from reports.figures.memory import memory_figure, memory_legend
from reports.figures.pareto import pareto_figure
from reports.figures.svg import Markup, element, join
from reports.html.answer import answer
from reports.html.load import under_load
from reports.html.provenance import environment, failures, reproduce
from reports.html.table import cells_table
from reports.serving import NOTE
from reports.wording import processes

Row = Mapping[str, Any]


def render(
    rows: Sequence[Row],
    run: Mapping[str, Any],
    decisions: Sequence[Decision],
    samples: Mapping[str, np.ndarray],
    allowed_drop: float = ALLOWED_DROP,
) -> str:
    """The whole report as one HTML document.

    ``samples`` has some of each cell's latencies in ms by ``cell_id``. Every name, reason and
    text is escaped; the content security policy allows the page's own script alone, by its hash,
    and no connection to anywhere.
    """
    style, script = _asset("style.css"), _asset("script.js")
    marks = Marks(row["runtime"] for row in rows)
    title = f"{run.get('suite') or 'Assay'}: which build to ship"
    sections = [
        answer(rows, run, decisions, allowed_drop),
        _tradeoff(rows, decisions, allowed_drop, marks),
        _latency(rows, decisions, samples, marks),
        section("Under load", "load", NOTE, *under_load(rows)),
        _memory(rows, decisions),
        _accuracy(rows, decisions, allowed_drop, marks),
        _lineage(rows),
        section(
            "Every cell",
            "cells",
            "One row a cell, whatever happened to it. Point at a heading for what it means.",
            cells_table(rows),
        ),
        section("What did not run", "failures", None, failures(rows)),
        section("Environment", "environment", None, environment(run)),
        section("How to reproduce", "reproduce", None, reproduce(run)),
    ]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_policy(script)),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        element("style", Markup(style)),
    )
    body = element(
        "body",
        element("main", join([part for part in sections if part is not None])),
        element("script", Markup(script)),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def section(title: str, key: str, note: str | None, *content: Markup | None) -> Markup | None:
    """A titled section; None where it has no content."""
    shown = [part for part in content if part is not None]
    if not shown:
        return None
    return element(
        "section",
        element("h2", title),
        None if note is None else element("p", note, class_="note"),
        join(shown),
        id=key,
    )


def _asset(name: str) -> str:
    return files("reports.html").joinpath(name).read_text(encoding="utf-8")


def _policy(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        "default-src 'none'; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def _tradeoff(
    rows: Sequence[Row], decisions: Sequence[Decision], allowed_drop: float, marks: Marks
) -> Markup | None:
    figures = []
    scored = False
    for decision in decisions:
        group = _group(rows, decision)
        unranked = [row for row, _ in decision.unranked]
        drawn = pareto_figure(
            group, decision.ship, allowed_drop, marks, unranked, decision.baseline
        )
        if drawn is not None:
            scored = scored or any(DROP.value(row) is not None for row in group)
            figures.append(_figure(decision, decisions, drawn))
    if not figures:
        return None
    cost = "accuracy drop" if scored else "what it costs"
    note = (
        f"Speed against {cost}: the closer to the lower left corner, the better. The "
        "area of a mark is the size of its artifact, whiskers are 95 % intervals, and the stepped "
        "line is the Pareto front, which no other build beats on both counts. A ring marks the "
        "build to ship."
    )
    if any(decision.unranked for decision in decisions):
        note += " Dashed marks are not ranked: their clock covers something else."
    return section("The trade-off", "tradeoff", note, marks.legend(), _side_by_side(figures))


def _latency(
    rows: Sequence[Row],
    decisions: Sequence[Decision],
    samples: Mapping[str, np.ndarray],
    marks: Marks,
) -> Markup | None:
    figures = _figures(decisions, lambda d: latency_figure(_group(rows, d), samples, d.ship, marks))
    if not figures:
        return None
    note = (
        "Time of one call: median with its 95 % interval, the thin upright line p99 where the "
        "sample supports it, and behind them how the samples are distributed. "
        f"{_processes(rows)}Where the machine was too restless for a median, the distribution "
        "stands alone."
    )
    return section("Latency", "latency", note, marks.legend(), _side_by_side(figures))


def _processes(rows: Sequence[Row]) -> str:
    """What the intervals hold beside the noise of calls."""
    counts = sorted({processes(row) for row in rows if row.get("latency_p50_ms") is not None})
    if not counts:
        return ""
    alone = "of one process's calls; another process may differ by more. "
    if counts == [1]:
        return f"Intervals are {alone}"
    several = " or ".join(str(count) for count in counts if count > 1)
    text = f"Builds had {several} fresh processes, and intervals hold how these differ. "
    return text + (f"Some intervals are {alone}" if counts[0] == 1 else "")


def _memory(rows: Sequence[Row], decisions: Sequence[Decision]) -> Markup | None:
    figures = _figures(decisions, lambda d: memory_figure(_group(rows, d), d.ship))
    if not figures:
        return None
    note = (
        "What a session's allocators hold after a call. Waste is reserved and used by nobody; "
        "the theoretical minimum is weights, inputs and outputs of one call."
    )
    on_gpu = {row["runtime"] for row in rows if str(row["device"]).startswith("cuda")}
    if len({runtime.partition("-")[0] for runtime in on_gpu}) > 1:
        note += (
            " On CUDA ONNX Runtime's figures are of a second session, from its opening on: they "
            "are not to be compared with torch's."
        )
    return section("Memory", "memory", note, memory_legend(rows), _side_by_side(figures))


def _accuracy(
    rows: Sequence[Row], decisions: Sequence[Decision], allowed_drop: float, marks: Marks
) -> Markup | None:
    figures = []
    places = dict.fromkeys((decision.model, decision.device) for decision in decisions)
    for model, device in places:
        group = [r for r in rows if r["model"] == model and r["device"] == device]
        ships = [d.ship for d in decisions if d.model == model and d.ship is not None]
        drawn = accuracy_figure(group, ships, allowed_drop, marks)
        if drawn is not None:
            caption = None if len(places) == 1 else element("h3", f"{model} on {device}")
            figures.append(element("figure", caption, drawn, class_="wide"))
    if not figures:
        return None
    note = (
        "What is lost on the task against the fp32 reference, on the same examples, with the "
        "paired 95 % interval. The short upright line is the one-sided 95 % bound: a build "
        "qualifies when it lies left of the allowed drop (dashed)."
    )
    return section("Accuracy", "accuracy", note, join(figures))


def _lineage(rows: Sequence[Row]) -> Markup | None:
    models = dict.fromkeys(row["model"] for row in rows)
    figures = []
    for model in models:
        drawn = lineage_figure([row for row in rows if row["model"] == model])
        if drawn is not None:
            caption = None if len(models) == 1 else element("h3", model)
            figures.append(element("figure", caption, drawn))
    if not figures:
        return None
    note = "The steps that made each artifact and its size after every one of them."
    return section("Lineage", "lineage", note, join(figures))


def _group(rows: Sequence[Row], decision: Decision) -> list[Row]:
    key = (decision.model, decision.workload, decision.device)
    return [row for row in rows if (row["model"], row["workload"], row["device"]) == key]


def _figures(
    decisions: Sequence[Decision], draw: Callable[[Decision], Markup | None]
) -> list[Markup]:
    """What ``draw`` makes of each decision, under its place; without those it makes nothing of."""
    return [
        _figure(decision, decisions, drawn)
        for decision in decisions
        if (drawn := draw(decision)) is not None
    ]


def _figure(decision: Decision, decisions: Sequence[Decision], drawn: Markup) -> Markup:
    """A figure under the parts of its decision's place that tell it from the others."""
    several = [
        name
        for name in ("model", "workload", "device")
        if name == "workload" or len({getattr(d, name) for d in decisions}) > 1
    ]
    caption = " · ".join(getattr(decision, name) for name in several)
    return element("figure", element("h3", caption), drawn)


def _side_by_side(figures: Sequence[Markup]) -> Markup:
    return element("div", join(list(figures)), class_="pair")
