"""Where a row comes from, and where its time went."""

from __future__ import annotations

from reports.columns.column import Column

PROVENANCE: tuple[Column, ...] = (
    Column("artifact_key", "string", "", "Key of the artifact in the content-addressed store."),
    Column(
        "lineage",
        "json",
        "",
        "Steps that made the artifact, oldest first: a list of objects with step, parameters, "
        "facts, seconds and bytes.",
    ),
    Column(
        "block",
        "string",
        "",
        "The interleaved group that was measured together. A drift of the machine slows a whole "
        "block, so cells of different blocks are compared with more caution.",
    ),
    Column("order", "int", "", "Place of the cell in the run's random order."),
)
SPENT: tuple[Column, ...] = (
    Column("build_s", "float", "s", "Making the artifact; near zero when the store had it."),
    Column(
        "start_s",
        "float",
        "s",
        "Starting the session's worker and importing its libraries, two workers at a time.",
    ),
    Column("open_s", "float", "s", "Opening the artifact in the worker, by the worker's clock."),
    Column("accuracy_s", "float", "s", "Scoring the task's test split."),
    Column("timed_s", "float", "s", "Inside the calls, warm-up and samples."),
    Column("overhead_s", "float", "s", "The cell's wall time less all of the above."),
    Column("finished_at", "string", "", "When the row was written, ISO 8601 in UTC."),
)
