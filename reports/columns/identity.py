"""What a row is of, and how it ended."""

from __future__ import annotations

from reports.columns.column import Column

STATUSES = (
    "ok",
    "unsupported",
    "incorrect",
    "out-of-memory",
    "timeout",
    "not-stationary",
    "error",
)
AXES = ("model", "recipe", "runtime", "attention", "workload", "device")
IDENTITY: tuple[Column, ...] = (
    Column("cell_id", "string", "", "The cell's key, unique in its run, stable when resumed."),
    Column("suite", "string", "", "Name of the suite that the cell belongs to."),
    Column("model", "string", "", "Axis: the model, as the suite names it."),
    Column(
        "recipe", "string", "", "Axis: the passes that made the artifact, by the recipe's name."
    ),
    Column("runtime", "string", "", "Axis: what opened the artifact and ran it."),
    Column("attention", "string", "", "Axis: attention implementation that was asked for."),
    Column(
        "workload", "string", "", "Axis: what was asked of the session, by the workload's name."
    ),
    Column("device", "string", "", "Axis: cpu, or cuda:N."),
    Column(
        "status",
        "string",
        "",
        "How the cell ended: " + ", ".join(STATUSES) + ". Only ok rows are ranked.",
    ),
    Column("reason", "string", "", "Why the status is not ok, in one line. Null when it is."),
)
WORKLOAD: tuple[Column, ...] = (
    Column("batch", "int", "examples", "Examples fed in one call."),
    Column("sequence", "int", "tokens", "Tokens of each example fed in one call."),
    Column("past", "int", "tokens", "Tokens of each example already in the KV cache."),
    Column("kind", "string", "", "Kind of the workload: forward, prefill or decode."),
)
