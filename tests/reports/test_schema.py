from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from reports.columns import AXES, COLUMNS, CONTRACT, STATUSES
from reports.errors import ReportError
from reports.schema import EXAMPLES, SAMPLES, SCHEMA_VERSION, arrow_schema, empty_row, validate_row


def test_columns_are_documented_and_unique() -> None:
    names = [column.name for column in COLUMNS]
    assert len(set(names)) == len(names)
    assert all(column.doc.endswith(".") for column in COLUMNS)


def test_columns_carry_their_unit_in_their_name_when_they_have_a_usual_one() -> None:
    suffixes = {"_ms": "ms", "_bytes": "bytes", "_s": "s"}
    for column in COLUMNS:
        for suffix, unit in suffixes.items():
            if column.name.endswith(suffix) and not column.name.endswith("_per_s"):
                assert column.unit == unit, column.name


def test_columns_name_every_axis_and_contract_column() -> None:
    names = {column.name for column in COLUMNS}
    assert names >= {*AXES, *CONTRACT}


def test_arrow_schema_carries_units_docs_and_version() -> None:
    schema = arrow_schema()
    assert schema.metadata[b"assay_schema_version"] == str(SCHEMA_VERSION).encode()
    field = schema.field("latency_p50_ms")
    assert field.type == pa.float64()
    assert field.metadata[b"unit"] == b"ms"
    assert b"Median" in field.metadata[b"doc"]


def test_validate_row_fills_every_column_in_order(make_row) -> None:
    row = validate_row(make_row())
    assert list(row) == list(empty_row())
    assert row["latency_p99_ms"] is None


def test_validate_row_takes_numpy_scalars_and_json_values(make_row) -> None:
    row = validate_row(
        make_row(
            latency_p50_ms=np.float32(1.5),
            samples=np.int32(7),
            contract_synchronised=np.bool_(True),
            lineage=[{"step": "export", "bytes": np.int64(3)}],
        )
    )
    assert (row["latency_p50_ms"], row["samples"]) == (1.5, 7)
    assert row["contract_synchronised"] is True
    assert json.loads(row["lineage"]) == [{"step": "export", "bytes": 3}]


def test_validate_row_makes_null_of_nan_but_keeps_infinity(make_row) -> None:
    row = validate_row(make_row(max_abs_error=math.inf, kl_divergence=math.nan))
    assert row["max_abs_error"] == math.inf
    assert row["kl_divergence"] is None


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("latency", 1.0, "unknown column 'latency'"),
        ("samples", 1.5, "'samples' is a int, not float"),
        ("samples", True, "'samples' is a int, not bool"),
        ("samples", 2**63, "'samples' is a int"),
        ("latency_p50_ms", "4 ms", "'latency_p50_ms' is a float, not str"),
        ("contract_synchronised", 1, "'contract_synchronised' is a bool, not int"),
        ("model", b"x", "'model' is a string, not bytes"),
        ("lineage", [object()], "cannot be written as JSON"),
        ("model", None, "'model' is missing"),
        ("status", "fine", f"one of {', '.join(STATUSES)}"),
        ("status", "timeout", "needs a reason"),
    ],
)
def test_validate_row_refuses(make_row, column: str, value: object, message: str) -> None:
    with pytest.raises(ReportError, match=message):
        validate_row({**make_row(), column: value})


def test_validate_row_replaces_what_is_not_text(make_row) -> None:
    row = validate_row(make_row(status="error", reason="no file \udcff"))
    assert row["reason"] == "no file ?"


def test_documentation_lists_every_column_as_it_is() -> None:
    text = (Path(__file__).parents[2] / "docs" / "reports.md").read_text()
    for column in COLUMNS:
        assert f"| `{column.name}` |" in text
        assert f"| {column.unit} | {column.doc} |" in text, column.name
    for field in (*SAMPLES, *EXAMPLES):
        assert f"| `{field.name}` |" in text
