"""Two runs to compare, written by a few words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import reports
from reports.store import RunStore

MIB = 2**20
ENVIRONMENT = {
    "cpu": {"model": "Xeon 8488C", "usable_cores": 2, "governor": None},
    "python": "3.11.7",
    "versions": {"torch": "2.13.0"},
}
AXES = {"model": "tiny", "runtime": "fake", "attention": "default", "device": "cpu"}


@dataclass
class Drop:
    """Of the mean, with an interval that is 0.02 wide, whatever the confidence."""

    drop: float
    examples: int
    lost: int
    gained: int
    confidence: float

    @property
    def low(self) -> float:
        return self.drop - 0.01

    @property
    def high(self) -> float:
        return self.drop + 0.01


def drop(metric: str, before: Any, after: Any, confidence: float) -> Drop:
    lost = before["correct"] - after["correct"]
    counts = int((lost > 0).sum()), int((lost < 0).sum())
    return Drop(float(lost.mean()), len(lost), *counts, confidence)


def row(recipe: str = "fp32", workload: str = "one", **columns: Any) -> dict[str, Any]:
    return {
        **AXES,
        "cell_id": f"{recipe}-{workload}",
        "suite": "demo",
        "recipe": recipe,
        "workload": workload,
        "status": "ok",
        "batch": 1,
        "kind": "forward",
        "latency_p50_ms": 4.0,
        "latency_p50_low_ms": 3.9,
        "latency_p50_high_ms": 4.1,
        "artifact_bytes": 10 * MIB,
        "artifact_key": f"key-{recipe}",
        "memory_peak_bytes": 100 * MIB,
        "memory_waste_bytes": 10 * MIB,
        "contract_threads": 1,
        "contract_allocator": "glibc",
        **columns,
    }


@pytest.fixture
def write(tmp_path: Path):
    """Writes a run into the folder ``name``; ``correct`` gives its builds' examples by recipe. What
    the runs say of the machine is ``write.environment``."""

    def make(name: str, rows: list[dict], correct: dict | None = None, **run: Any) -> Any:
        facts = {
            "suite": "demo",
            "suite_text": "the suite",
            "environment": ENVIRONMENT,
            "data": {"tiny": "print"},
            **run,
        }
        with RunStore.create(tmp_path / name, facts) as store:
            for order, each in enumerate(rows):
                scored = (correct or {}).get(each["recipe"])
                columns = {"order": order}
                if scored is not None:
                    columns |= {"task": "t", "metric": "accuracy", "metric_value": scored.mean()}
                    axes = {**AXES, "recipe": each["recipe"], "task": "t"}
                    store.record_examples(axes, {"correct": scored, "label": np.arange(400)})
                reason = {} if each["status"] == "ok" else {"reason": "for a reason"}
                store.record({**columns, **reason, **each})
            store.finish()
        return reports.load(tmp_path / name)

    make.environment = ENVIRONMENT
    return make


@pytest.fixture(name="row")
def row_fixture() -> Callable[..., dict[str, Any]]:
    return row


@pytest.fixture(name="drop")
def drop_fixture() -> Callable[..., Drop]:
    return drop
