"""``assay gate --keep``: a release's builds, put aside to hold later ones to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from compile.artifact import Artifact
from compile.errors import InputError
from suites import rows
from suites.bench import Bench
from suites.blocks import SessionKey, by_session
from suites.cell import Cell
from suites.gate.kept import keep, require_replaceable
from suites.gate.site import Site, open_site


def keep_baseline(reference: str, folder: Path, *, console: Console | None = None) -> int:
    """Build the suite and keep its artifacts as a baseline in ``folder``. Returns how many cells.

    Each session is held to its reference first. Raises InputError where a cell fails: a baseline
    with holes would let a later gate pass them.
    """
    with open_site(reference, None, console) as site:
        if folder.exists():
            require_replaceable(folder, site.suite.name)
        site.suite.file.gate.check([c.label for c in site.cells], str(site.suite.path))
        cells: dict[str, dict[str, Any]] = {}
        artifacts: dict[str, Artifact] = {}
        data: dict[str, str | None] = {}
        for name, subject in site.subjects.items():
            mine = [cell for cell in site.cells if cell.model == name]
            data[name] = subject.task.fingerprint if subject.task else None
            with site.bench(subject, mine) as bench:
                for key, artifact in _held_to_reference(site, bench, mine).items():
                    artifacts[artifact.key] = artifact
                    for cell in by_session(mine)[key]:
                        cells[cell.id] = {"label": cell.label, "artifact": artifact.key}
        facts = {"environment": site.environment, "suite_text": site.suite.text}
        keep(folder, site.suite.name, cells, data, artifacts, facts)
        return len(cells)


def _held_to_reference(
    site: Site, bench: Bench, cells: Sequence[Cell]
) -> dict[SessionKey, Artifact]:
    """Every session's artifact, each workload's output compared with its reference's."""
    try:
        base = bench.builds.base()
        bench.check_workloads(base)
    except rows.FAILURES as error:
        reason = rows.failure(error)["reason"]
        raise InputError(f"{bench.subject.name} cannot be kept: {reason}") from error
    sessions = by_session(cells)

    def refuse(recipe: str, error: Exception) -> None:
        raise InputError(f"recipe {recipe!r} cannot be kept: {error}") from error

    recipes = {key.recipe: bench.recipe(key.recipe) for key in sessions}
    truths = bench.truths(base, recipes, refuse)
    artifacts = {}
    for number, (key, mine) in enumerate(sessions.items()):
        site.display.stage(f"checking {key.label}", number / len(sessions))
        try:
            artifact = bench.builds.get(recipes[key.recipe], bench.builds.kind(key.runtime))
            with bench.session(key, artifact) as session:
                for workload in dict.fromkeys(cell.workload for cell in mine):
                    feeds = bench.feed(workload, artifact.signature)
                    session.ready(feeds, truths[key.recipe][workload])
        except (*rows.FAILURES, *rows.SESSION_FAILURES) as error:
            reason = rows.failure(error)["reason"]
            raise InputError(f"{key.label} cannot be kept: {reason}") from error
        artifacts[key] = artifact
    return artifacts
