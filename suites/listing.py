"""``assay list`` and ``assay doctor``: what there is to name in a suite, and what runs here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from compile.models import zoo
from quantize.passes import PASSES
from quantize.recipe import load_recipe, shipped_recipes
from reports.columns import COLUMNS
from runtimes import doctor, registry
from suites.measure.meters.survey import survey as survey_meters
from suites.reading import read_suite, shipped_suites
from suites.suite import load_suite
from suites.tasks.registry import TASKS


def show(what: str, suite: str | None) -> None:
    """Print one kind of thing that a suite can name. ``cells`` expands ``suite``."""
    match what:
        case "suites":
            found = {name: read_suite(name)[0] for name in shipped_suites()}
            _table(("suite", "what it does"), ((n, f.description) for n, f in found.items()))
        case "models":
            _table(("model", "what it is"), ((n, e.summary) for n, e in zoo.ZOO.items()))
        case "recipes":
            recipes = [load_recipe(name, Path()) for name in shipped_recipes()]
            _table(
                ("recipe", "passes", "what it does"),
                ((r.name, " > ".join(p.name for p in r.passes), r.description) for r in recipes),
            )
        case "passes":
            _table(
                ("pass", "works on", "parameters", "what it does"),
                (
                    (name, ", ".join(kind.kinds), ", ".join(kind.model_fields), _first_line(kind))
                    for name, kind in PASSES.items()
                ),
            )
        case "runtimes":
            _runtimes()
        case "tasks":
            _table(
                ("task", "metric", "what it asks"),
                ((name, task.metric, _first_line(task)) for name, task in TASKS.items()),
            )
        case "columns":
            _table(("column", "unit", "meaning"), ((c.name, c.unit, c.doc) for c in COLUMNS))
        case "cells":
            assert suite is not None, "the command line asks for one"
            available = [name for name, found in doctor.survey() if found.available]
            cuda = bool(doctor.environment()["gpus"])
            for cell in load_suite(suite, available, cuda).cells:
                print(cell.label)


def _runtimes() -> None:
    _table(
        ("runtime", "opens", "here", "why not, and the way out"),
        (
            (
                name,
                ", ".join(registry.entry(name).kinds),
                "yes" if found.available else "no",
                "; ".join(part for part in (found.reason, found.way_out) if part),
            )
            for name, found in doctor.survey()
        ),
    )


def show_doctor(as_json: bool) -> None:
    """Print the machine, the versions that matter, every meter and every runtime, with why not."""
    environment = doctor.environment()
    meters = survey_meters(bool(environment["gpus"]))
    if as_json:
        runtimes = {
            name: {"available": a.available, "reason": a.reason, "way_out": a.way_out}
            for name, a in doctor.survey()
        }
        print(json.dumps({**environment, "meters": meters, "runtimes": runtimes}, indent=1))
        return
    facts = {key: value for key, value in environment.items() if key != "versions"}
    _table(("machine", ""), ((key, _plain(value)) for key, value in facts.items()))
    _table(("library", "version"), environment["versions"].items())
    _table(
        ("meter", "here", "what it covers, or why it cannot be read"),
        (
            (name, "no" if told["absent"] else "yes", told["absent"] or told["covers"])
            for name, told in meters.items()
        ),
    )
    _runtimes()


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items() if item)
    if isinstance(value, list):
        return "; ".join(map(_plain, value)) or "none"
    return "none" if value is None else str(value)


def _first_line(kind: type) -> str:
    return (kind.__doc__ or "").strip().split("\n", 1)[0]


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(*headings, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    Console().print(table)
