"""Inner runs of pytest, whose suite is run by a stand-in for the runner."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas  # noqa: F401 - an inner run forgets what it imported, and these cannot be imported twice
import pyarrow.pandas_compat  # noqa: F401
import pytest

from reports.store import RunStore
from suites import pytest_plugin
from suites.cell import Cell
from suites.expanded import Expanded
from suites.suite import load_suite

SAMPLES = {
    # Apart by one nanosecond, and large enough that a sum of them has fewer digits.
    "one": [3_999_999_999, 4_000_000_001, 123_456_789, 4_000_000_000, 1],
    "two": [2_000_003, 2_000_001, 2_000_002, 2_000_004],
}
SUITE = """
[matrix]
model = ["ramp"]
runtime = ["fake"]
workload = ["one", "two"]
[models.ramp]
source = "ramp.onnx"
[workloads.one]
batch = 1
[workloads.two]
batch = 2
"""


class Runs:
    """Stands for the runner: keeps what it was asked for, and records rows of known content."""

    suite = SUITE
    samples = SAMPLES

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.options: list[dict[str, Any]] = []
        self.columns: dict[str, dict[str, Any]] = {}
        """By workload: what its row has beside what every row has."""
        self.error: Exception | None = None

    def run_cells(
        self, expanded: Expanded, cells: Sequence[Cell], out: Path, **options: Any
    ) -> list[str]:
        self.asked.append([cell.label for cell in cells])
        self.options.append(options)
        if self.error is not None:
            raise self.error
        if options["fresh"]:
            shutil.rmtree(out, ignore_errors=True)
        with RunStore.create(out, {"suite": expanded.suite.name}) as store:
            for order, cell in enumerate(cells):
                columns = self.columns.get(cell.workload, {})
                if columns is None:
                    continue
                row = {**vars(cell), "cell_id": cell.id, "suite": "s", "status": "ok"}
                warmup, kept = [7_000_000_000], SAMPLES.get(cell.workload, [1])
                phases = ["warmup"] * len(warmup) + ["sample"] * len(kept)
                store.record(
                    {**row, "order": order, **columns},
                    {"latency_ns": np.array([*warmup, *kept]), "phase": np.array(phases)},
                )
            store.finish()
        return []


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, pytester: pytest.Pytester) -> Runs:
    fake = Runs()
    monkeypatch.setattr(
        pytest_plugin,
        "expand_here",
        lambda reference, _: Expanded(load_suite(reference, ["fake"], cuda=False), {}, {}),
    )
    monkeypatch.setattr(pytest_plugin, "run_cells", fake.run_cells)
    pytester.path.joinpath("fakes.toml").write_text(SUITE)
    # Other plugins of this environment are not looked at: each would be loaded for each inner run.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("COLUMNS", "200")
    return fake


@pytest.fixture
def run(pytester: pytest.Pytester, runs: Runs) -> Callable[..., pytest.RunResult]:
    def call(*arguments: str, recorder: Sequence[str] = ("-p", "benchmark")) -> pytest.RunResult:
        return pytester.runpytest_inprocess(
            "-p", "assay", *recorder, "--assay", "fakes.toml", *arguments
        )

    return call
