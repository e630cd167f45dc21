"""The columns of a run's three tables: cells, samples and examples.

A *row* is the result of one cell, and every cell has one, whatever happened to it. What could not
be measured is null, never zero. Each column says its unit and what it covers; both travel in the
Parquet files as field metadata (``unit``, ``doc``), beside the schema's version.
"""

from __future__ import annotations

import json
import math
import numbers
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from reports.columns import AXES, BY_NAME, COLUMNS, REQUIRED, STATUSES, Column
from reports.errors import ReportError

SCHEMA_VERSION = 1
"""Raised whenever a column is removed or changes its meaning; adding one does not raise it."""

_METADATA = {"assay_schema_version": str(SCHEMA_VERSION)}

_CAUSE = {
    "unit": "",
    "doc": "What disturbed it, as in disturbed_by, several joined by ' + '. Null: nothing known.",
}
_PROCESS = {
    "unit": "",
    "doc": "In which of the cell's processes it was made, from 0. Null in load workloads.",
}
_ARRIVAL = {
    "unit": "ns",
    "doc": "Load workloads: the request's intended arrival, from the episode's beginning.",
}
_RATE = {
    "unit": "requests/s",
    "doc": "Load workloads: the rate that its episode was offered. Null in a closed loop.",
}
_START = {"unit": "ns", "doc": "Load workloads: when its call began; it took latency_ns."}
SAMPLES = pa.schema(
    [
        pa.field("cell_id", pa.string(), False, {"unit": "", "doc": "The cell's key."}),
        pa.field("index", pa.int32(), False, {"unit": "", "doc": "Place of the call, from 0."}),
        pa.field(
            "block", pa.int32(), False, {"unit": "", "doc": "Which of the cell's turns it was in."}
        ),
        pa.field("process", pa.int32(), True, _PROCESS),
        pa.field(
            "latency_ns", pa.int64(), False, {"unit": "ns", "doc": "Time of one synchronised call."}
        ),
        pa.field(
            "phase",
            pa.dictionary(pa.int8(), pa.string()),
            False,
            {"unit": "", "doc": "warmup (discarded) or sample."},
        ),
        pa.field(
            "disturbed", pa.bool_(), False, {"unit": "", "doc": "The machine was disturbed then."}
        ),
        pa.field("cause", pa.dictionary(pa.int16(), pa.string()), True, _CAUSE),
        pa.field("arrival_ns", pa.int64(), True, _ARRIVAL),
        pa.field("start_ns", pa.int64(), True, _START),
        pa.field("requested_requests_per_s", pa.float64(), True, _RATE),
    ],
    metadata=_METADATA,
)

_CORRECT = "Right answers in the example: 0 or 1 of a class, the number of right tokens of a text."
EXAMPLES = pa.schema(
    [
        *(
            pa.field(n, pa.string(), True, BY_NAME[n].arrow.metadata)
            for n in AXES
            if n != "workload"
        ),
        pa.field("task", pa.string(), True, {"unit": "", "doc": "The task."}),
        pa.field("example", pa.int32(), False, {"unit": "", "doc": "Place in the test split."}),
        pa.field("label", pa.int64(), True, {"unit": "", "doc": "The right class, if it is one."}),
        pa.field("predicted", pa.int64(), True, {"unit": "", "doc": "This build's class."}),
        pa.field("correct", pa.int64(), True, {"unit": "", "doc": _CORRECT}),
        pa.field(
            "nll", pa.float64(), True, {"unit": "nats", "doc": "Summed negative log likelihood."}
        ),
        pa.field("tokens", pa.int64(), True, {"unit": "tokens", "doc": "Tokens scored."}),
        pa.field("bytes", pa.int64(), True, {"unit": "bytes", "doc": "Bytes of the text scored."}),
        pa.field(
            "kl_divergence",
            pa.float64(),
            True,
            {"unit": "nats", "doc": "Divergence from the reference's prediction."},
        ),
        pa.field(
            "reference_predicted", pa.int64(), True, {"unit": "", "doc": "The reference's class."}
        ),
        pa.field(
            "reference_correct",
            pa.int64(),
            True,
            {"unit": "", "doc": "The reference's right answers."},
        ),
        pa.field(
            "reference_nll",
            pa.float64(),
            True,
            {"unit": "nats", "doc": "The reference's summed negative log likelihood."},
        ),
    ],
    metadata=_METADATA,
)


def arrow_schema() -> pa.Schema:
    """The schema of ``cells.parquet``: unit and doc on each field, the version on the file."""
    return pa.schema([column.arrow for column in COLUMNS], metadata=_METADATA)


def empty_row() -> dict[str, Any]:
    """A row with every column, all null."""
    return {column.name: None for column in COLUMNS}


def validate_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with every column in order and plain Python values.

    A missing column becomes null, and so does NaN: a number that does not exist. NumPy scalars
    are taken as what they hold. Raises ReportError for an unknown column, a value of another
    type, an axis or status that is missing or unknown, and a failure without a reason.
    """
    if unknown := sorted(set(row) - set(BY_NAME)):
        raise ReportError(f"unknown column {unknown[0]!r}: docs/reports.md lists them")
    full = {column.name: _plain(column, row.get(column.name)) for column in COLUMNS}
    for name in REQUIRED:
        if full[name] is None:
            raise ReportError(f"column {name!r} is missing: every row has one")
    if full["status"] not in STATUSES:
        raise ReportError(
            f"column 'status' cannot be {full['status']!r}: use one of {', '.join(STATUSES)}"
        )
    if full["status"] != "ok" and not full["reason"]:
        raise ReportError(f"a row with status {full['status']!r} needs a reason")
    return full


def _plain(column: Column, value: Any) -> Any:
    """One value as its column's Python type. Raises ReportError where it is of another."""
    if value is None:
        return None
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    match column.dtype:
        case "string" | "json" if isinstance(value, str):
            # An error's text may hold undecodable bytes of a file name, which Arrow refuses.
            return value.encode("utf-8", "replace").decode()
        case "json" if isinstance(value, Mapping | list | tuple):
            return json.dumps(value, default=_jsonable)
        case "bool" if isinstance(value, bool):
            return value
        case "int" if isinstance(value, numbers.Integral) and not isinstance(value, bool):
            if -(2**63) <= (whole := int(value)) < 2**63:
                return whole
        case "float" if isinstance(value, numbers.Real) and not isinstance(value, bool):
            return None if math.isnan(value) else float(value)
    raise ReportError(
        f"column {column.name!r} is a {column.dtype}, not {type(value).__name__}: {value!r:.80}"
    )


def _jsonable(value: Any) -> Any:
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return value.item()
    if isinstance(value, Mapping):
        return dict(value)
    raise ReportError(f"{type(value).__name__} cannot be written as JSON: {value!r:.80}")


def samples_table(cell_id: str, samples: Mapping[str, np.ndarray]) -> pa.Table:
    """One cell's samples as a table. Raises ReportError for columns of unlike length or type."""
    if "latency_ns" not in samples:
        raise ReportError("samples have no column 'latency_ns'")
    count = len(samples["latency_ns"])
    defaults = {
        "cell_id": pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), [cell_id]),
        "index": np.arange(count, dtype=np.int32),
        "block": np.zeros(count, np.int32),
        "phase": ["sample"] * count if "phase" not in samples else None,
        "disturbed": np.zeros(count, bool),
    }
    if strange := set(samples.get("phase", ())) - {"warmup", "sample"}:
        raise ReportError(f"column 'phase' can be warmup or sample, not {min(strange)!r}")
    return _table(SAMPLES, {**defaults, **samples}, count)


def examples_table(
    axes: Mapping[str, str], examples: Mapping[str, np.ndarray | list[Any]]
) -> pa.Table:
    """One build's per-example results as a table. Raises ReportError as ``samples_table`` does."""
    if not examples:
        raise ReportError("examples have no columns")
    count = len(next(iter(examples.values())))
    repeated = {name: [value] * count for name, value in axes.items()}
    return _table(EXAMPLES, {"example": np.arange(count), **examples, **repeated}, count)


def _table(schema: pa.Schema, columns: Mapping[str, Any], count: int) -> pa.Table:
    if unknown := sorted(set(columns) - set(schema.names)):
        raise ReportError(f"unknown column {unknown[0]!r}: choose from {', '.join(schema.names)}")
    arrays = []
    for field in schema:
        values = columns.get(field.name)
        if values is None:
            values = [None] * count
        if len(values) != count:
            raise ReportError(f"column {field.name!r} has {len(values)} values, not {count}")
        try:
            array = values if isinstance(values, pa.Array) else pa.array(values)
            arrays.append(array.cast(field.type))
            if array.null_count and not field.nullable:
                raise ReportError(f"column {field.name!r} has a null")
        except (pa.ArrowException, TypeError) as error:
            raise ReportError(f"column {field.name!r} is not {field.type}: {error}") from error
    return pa.Table.from_arrays(arrays, schema=schema)
