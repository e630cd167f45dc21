"""``report.md`` and ``report.html`` from a run's Parquet files: what ``assay report`` does."""

from __future__ import annotations

from pathlib import Path

from reports import markdown
from reports.decision import ALLOWED_DROP, REFERENCE_RECIPE, Decision, decide
from reports.html import page
from reports.results import load
from reports.store import CELLS, JOURNAL, RunStore, write_whole


def write(folder: Path | str, allowed_drop: float | None = None) -> list[Decision]:
    """Write both reports into ``folder`` and return the decisions that they print.

    A run that was killed before it finished is merged from its journal first. ``allowed_drop``
    and the reference recipe are those of ``run.json`` unless given. Raises ReportError for a
    folder that holds no run, a damaged file, and one that cannot be written.
    """
    folder = Path(folder)
    if not (folder / CELLS).exists() and (folder / JOURNAL).is_dir():
        with RunStore.resume(folder) as store:
            store.finish()
    results = load(folder)
    run, rows = results.run, results.rows
    if allowed_drop is None:
        allowed_drop = float(run.get("allowed_drop", ALLOWED_DROP))
    reference = str(run.get("reference_recipe", REFERENCE_RECIPE))
    decisions = decide(rows, allowed_drop, reference)
    document = page.render(rows, run, decisions, results.sketch(), allowed_drop)
    write_whole(folder / "report.html", document.encode())
    write_whole(folder / "report.md", markdown.render(rows, run, decisions).encode())
    return decisions
