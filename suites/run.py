"""``assay run``: every cell of a suite gets its row, whatever happens to the others."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

import reports
from compile.artifact import Store
from compile.errors import InputError
from reports import tables
from reports.store import RunStore, read_run
from runtimes import memory
from suites import rows
from suites.bench import Bench
from suites.builder import Builder
from suites.cell import Cell
from suites.expanded import Expanded, expand_here
from suites.measure.meters.speed import Yardstick
from suites.model_run import ModelRun
from suites.progress import Display
from suites.reading import shipped_suites
from suites.subject import Subject
from suites.suite import Suite

OUTPUTS = (
    "cells.parquet",
    "samples.parquet",
    "examples.parquet",
    "report.md",
    "report.html",
    "run.json",
)


def run(
    reference: str,
    out: Path,
    *,
    only: str | None = None,
    resume: bool = False,
    fresh: bool = False,
    console: Console | None = None,
) -> list[str]:
    """Run a suite into the folder ``out`` and write its report. Returns the rows' statuses.

    ``only`` restricts it to cells that match a glob. ``resume`` goes on with the run in ``out``;
    ``fresh`` replaces a run of the same suite there. Raises InputError or ReportError for
    whatever the user can mend, before anything is built where that can be known before.
    """
    console = console or Console(stderr=True)
    expanded = expand_here(reference, console)
    suite = expanded.suite
    cells = suite.only(only) if only else suite.cells
    statuses = run_cells(
        expanded,
        cells,
        out,
        command=("assay", *sys.argv[1:]),
        only=only,
        resume=resume,
        fresh=fresh,
        console=console,
    )
    console.print(f"\nreport: {out / 'report.html'}", highlight=False, markup=False, soft_wrap=True)
    return statuses


def run_cells(
    expanded: Expanded,
    cells: Sequence[Cell],
    out: Path,
    *,
    command: Sequence[str],
    only: str | None = None,
    resume: bool = False,
    fresh: bool = False,
    show: bool = True,
    console: Console,
) -> list[str]:
    """Measure these cells of a suite together, as ``run`` says. ``command`` is the one that asks
    for it, ``only`` what chose them; ``show`` ends in the terminal with the run's tables."""
    suite = expanded.suite
    with console.status("looking at models and data"):
        models = expanded.subjects(cells)
    facts = _run_facts(expanded, models, command, only)
    if fresh:
        _clear(out, suite)
    if resume and (out / "run.json").exists():
        _require_same_data(read_run(out), facts, out)
    recorder = RunStore.resume(out, facts) if resume else RunStore.create(out, facts)
    with recorder:
        try:
            _measure(expanded, cells, models, recorder, out, console)
        except InputError:
            if recorder.finished():
                recorder.finish({"assay_peak_bytes": memory.own_peak()})
                _publish_apart(out, show)
                console.print(f"what was finished before: {out / 'report.html'}", soft_wrap=True)
            elif not resume:
                _remove(out)  # nothing was lost, and the folder is free for the mended suite
            raise
        statuses = [row["status"] for row in recorder.rows()]
        recorder.finish({"assay_peak_bytes": memory.own_peak()})
    _publish_apart(out, show)
    return statuses


def _publish_apart(out: Path, show: bool) -> None:
    """In a process of its own: tables and pictures take more memory than all else here."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as apart:
        apart.submit(_publish, out, show).result()


def _publish(out: Path, show: bool) -> None:
    """Write the report and, if asked to, end in the terminal with its tables."""
    reports.write(out)
    if not show:
        return
    tables.screen().print(tables.terminal(reports.load(out)))


def _measure(
    expanded: Expanded,
    cells: Iterable[Cell],
    subjects: Mapping[str, Subject],
    recorder: RunStore,
    out: Path,
    console: Console,
) -> None:
    suite, versions = expanded.suite, expanded.versions
    done = recorder.finished()
    waiting = [cell for cell in cells if cell.id not in done]
    store = Store.default()
    with (
        Display(len(waiting), console) as display,
        Builder(store, out / "logs" / "builder.log", display.stage) as builder,
    ):
        benches = []
        for name, subject in subjects.items():
            mine = [cell for cell in waiting if cell.model == name]
            if mine:
                workloads = tuple(dict.fromkeys(cell.workload for cell in mine))
                logs = out / "logs"
                stage = display.stage
                bench = Bench(suite, subject, store, builder, stage, logs, versions, workloads)
                benches.append((bench, mine))
        for bench, _ in benches:
            # Every model is looked at before the first is timed: a mistake in the last one should
            # not end a run that has gone on for an hour. What else fails is told by its own cells.
            with contextlib.suppress(*rows.FAILURES):
                bench.check_workloads(bench.builds.base())
            _require_same_builds(bench, recorder)
        yardstick = Yardstick.of_machine(suite.threads, store.root.parent)
        for bench, mine in benches:
            ModelRun(bench, mine, recorder, display, yardstick).run()
        yardstick.remember()


def _require_same_builds(bench: Bench, recorder: RunStore) -> None:
    """Raise InputError where a finished row of the model is of another build than one that is made
    now: rows of two models, or of two recipes of one name, must not stand in one table."""
    for row in recorder.rows():
        if row["model"] != bench.subject.name or not row.get("artifact_key"):
            continue
        told = f"{row['model']} / {row['recipe']}"
        try:
            made = bench.builds.get(bench.recipe(row["recipe"]), bench.builds.kind(row["runtime"]))
        except rows.FAILURES as error:
            raise InputError(
                f"{told} was built when the run began and cannot be built now: {error}"
            ) from error
        if made.key != row["artifact_key"]:
            raise InputError(
                f"{told} is not the build that the run began with: the model, the recipe, the data "
                "or a library has changed since; put it back, or begin anew (--fresh)"
            )


def _require_same_data(kept: Mapping[str, Any], now: Mapping[str, Any], out: Path) -> None:
    """Raise InputError where a task's data has changed since the run in ``out`` began."""
    for model, fingerprint in kept.get("data", {}).items():
        if model in now["data"] and now["data"][model] != fingerprint:
            raise InputError(
                f"{out}: the data of model {model!r} has changed since the run began; put it back, "
                "or begin anew (--fresh)"
            )


def _run_facts(
    expanded: Expanded,
    subjects: Mapping[str, Subject],
    command: Sequence[str],
    only: str | None,
) -> dict[str, Any]:
    """What ``run.json`` says: what it takes to do the run again, and to compare it with another.

    Its versions are those of this environment and, by runtime, those of the other environments.
    """
    suite, environment, survey = expanded.suite, expanded.environment, expanded.survey
    elsewhere = {
        name: dict(found.versions) for name, found in survey.items() if suite.runtime(name).python
    }
    return {
        "suite": suite.name,
        "suite_path": _place(suite),
        "suite_text": suite.text,
        "only": only,
        "seed": suite.file.seed,
        "max_drop": suite.file.ship.max_drop,
        "command": shlex.join(command),
        "environment": environment,
        "runtimes": {name: asdict(found) for name, found in survey.items()},
        "versions": {**environment.get("versions", {}), **elsewhere},
        "data": {name: s.task.fingerprint for name, s in subjects.items() if s.task},
        "git": _git(suite.folder),
    }


def _place(suite: Suite) -> str:
    """Where a suite lies; the name of a shipped one, whose path another installation changes."""
    shipped = shipped_suites().get(suite.name)
    return suite.name if shipped and shipped.resolve() == suite.path else str(suite.path)


def _git(folder: Path) -> dict[str, Any] | None:
    """Commit of the repository that the suite lives in, and whether it had changes."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-c", "core.fsmonitor=false", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        ).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _clear(out: Path, suite: Suite) -> None:
    """Remove a run of the same suite, and nothing else. What else is in the folder stays, and is
    an error when the new run is created there."""
    if not (out / "run.json").exists():
        return
    if read_run(out).get("suite_path") != _place(suite):
        raise InputError(f"{out} holds a run of another suite: choose another folder")
    with RunStore.resume(out):  # Not under a process that still writes it.
        _remove(out)


def _remove(out: Path) -> None:
    """Remove a run's files, and its folder if nothing else is in it."""
    for folder in ("journal", "logs"):
        shutil.rmtree(out / folder, ignore_errors=True)
    for file in (*OUTPUTS, ".lock"):
        (out / file).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        out.rmdir()
