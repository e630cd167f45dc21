"""Every column of a row, declared once: its name, type, unit and meaning. One subject a file.

The terminal, the report's tooltips, the Parquet files and ``docs/reports.md`` all read it here.
"""

from __future__ import annotations

from collections.abc import Mapping

from reports.columns.accuracy import ACCURACY, CORRECTNESS
from reports.columns.column import Column, Dtype
from reports.columns.contract import CONTRACT, FAIRNESS, PROOF
from reports.columns.identity import AXES, IDENTITY, STATUSES, WORKLOAD
from reports.columns.latency import LATENCY, THROUGHPUT
from reports.columns.load import LOAD
from reports.columns.machine import ENERGY, MACHINE
from reports.columns.memory import MEMORY, SIZE
from reports.columns.origin import PROVENANCE, SPENT

COLUMNS: tuple[Column, ...] = (
    *IDENTITY,
    *WORKLOAD,
    *LATENCY,
    *THROUGHPUT,
    *LOAD,
    *ENERGY,
    *MACHINE,
    *SIZE,
    *MEMORY,
    *ACCURACY,
    *CORRECTNESS,
    *FAIRNESS,
    *PROOF,
    *PROVENANCE,
    *SPENT,
)
BY_NAME: Mapping[str, Column] = {column.name: column for column in COLUMNS}
REQUIRED = ("cell_id", "suite", *AXES, "status")

__all__ = ["AXES", "BY_NAME", "COLUMNS", "CONTRACT", "REQUIRED", "STATUSES", "Column", "Dtype"]
