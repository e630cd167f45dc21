"""``report.md`` and ``report.html`` from a run's Parquet files: what ``assay report`` does."""

from __future__ import annotations

from pathlib import Path

from reports import markdown
from reports.decision import Decision, decide, max_drop
from reports.html import page
from reports.results import load
from reports.store import CELLS, JOURNAL, RunStore, write_whole


def write(folder: Path | str, allowed_drop: float | None = None) -> list[Decision]:
    """Write both reports into ``folder`` and return the decisions that they print.

    A run that was killed before it finished is merged from its journal first. ``allowed_drop``
    is that of ``run.json`` unless given. Raises ReportError for a
    folder that holds no run, a damaged file, and one that cannot be written.
    """
    folder = Path(folder)
    if not (folder / CELLS).exists() and (folder / JOURNAL).is_dir():
        with RunStore.resume(folder) as store:
            store.finish()
    results = load(folder)
    run, rows = results.run, results.rows
    limit = max_drop(run) if allowed_drop is None else allowed_drop
    decisions = decide(rows, limit)
    document = page.render(rows, run, decisions, results.sketch(), limit)
    write_whole(folder / "report.html", document.encode())
    write_whole(folder / "report.md", markdown.render(rows, run, decisions).encode())
    return decisions
