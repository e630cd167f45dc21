"""Rows that the tests of this room share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

MakeRow = Callable[..., dict[str, Any]]


@pytest.fixture
def make_row() -> MakeRow:
    """A function that makes a measured row; its arguments replace columns."""

    def make(recipe: str = "fp32", runtime: str = "onnxruntime-cpu", **columns: Any) -> dict:
        p50 = columns.get("latency_p50_ms", 10.0)
        row = {
            "cell_id": f"tiny/{recipe}/{runtime}/{columns.get('workload', 'b1')}",
            "suite": "demo",
            "model": "tiny",
            "recipe": recipe,
            "runtime": runtime,
            "attention": "default",
            "workload": "b1",
            "device": "cpu",
            "status": "ok",
            "latency_p50_ms": p50,
            "latency_p50_low_ms": p50 and p50 * 0.99,
            "latency_p50_high_ms": p50 and p50 * 1.01,
            "artifact_bytes": 1000,
            "accuracy_drop": 0.0,
            "accuracy_drop_low": -0.002,
            "accuracy_drop_high": 0.002,
            "accuracy_drop_bound": 0.0017,
            "accuracy": 0.9,
            "contract_clock": "host",
            "contract_threads": 1,
            "contract_precision": "f32",
            "block": "one",
        }
        return {**row, **columns}

    return make
