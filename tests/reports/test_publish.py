from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from reports.errors import ReportError
from reports.publish import write
from reports.results import load
from reports.store import RunStore


def test_write_gives_the_same_reports_twice(demo_run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(demo_run, tmp_path / "run")
    [first, second] = write(folder)
    assert first.ship is not None
    assert (first.ship["recipe"], first.ship["runtime"]) == ("int8-static", "onnxruntime-cpu")
    assert second.workload == "b8x128"
    before = [(folder / name).read_bytes() for name in ("report.html", "report.md")]
    write(folder)
    assert before == [(folder / name).read_bytes() for name in ("report.html", "report.md")]


def test_write_needs_only_the_parquet_files_and_run_json(demo_run: Path, tmp_path: Path) -> None:
    for name in ("run.json", "cells.parquet", "samples.parquet", "examples.parquet"):
        shutil.copy(demo_run / name, tmp_path)
    write(tmp_path)
    assert (tmp_path / "report.html").stat().st_size > 50_000


def test_write_takes_the_allowed_drop_of_the_run(demo_run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(demo_run, tmp_path / "run")
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**run, "max_drop": 0.003}))
    strict, _ = write(folder)
    assert strict.ship is not None
    assert strict.ship["recipe"] in ("fp16", "fp32")
    assert write(folder, allowed_drop=0.01)[0].ship["recipe"] == "int8-static"
    write(folder)
    assert "where 0.30 is allowed" in (folder / "report.md").read_text()


def test_write_merges_the_journal_of_a_killed_run(tmp_path: Path, make_row) -> None:
    RunStore.create(tmp_path / "run", {"suite": "demo"}).close()
    with RunStore.resume(tmp_path / "run") as store:
        store.record(make_row(), {"latency_ns": np.full(30, 10_000_000)})
    [decision] = write(tmp_path / "run")
    assert decision.ship is not None
    assert len(load(tmp_path / "run").samples) == 30


def test_reports_load_neither_torch_nor_a_runtime() -> None:
    script = (
        "import sys, reports; reports.write, reports.load\n"
        "import reports.tables\n"
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'openvino') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "[]"


def test_write_refuses_a_folder_that_is_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="not a run's folder"):
        write(tmp_path)


def test_markdown_has_the_answer_the_table_and_the_failures(demo_run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(demo_run, tmp_path / "run")
    write(folder)
    text = (folder / "report.md").read_text()
    assert text.startswith("# quickstart\n\n## What to ship\n")
    assert "**Ship int8-static on onnxruntime-cpu for tiny-encoder, b1x128 on cpu: " in text
    assert text.count("\n| ") == 2 + 40
    assert "SIGSEGV" in text
    assert "```\nassay run quickstart --out results/quickstart\n```" in text


def test_sketch_thins_evenly_and_leaves_warm_up_out(tmp_path: Path, make_row) -> None:
    phase = np.array(["warmup"] * 100 + ["sample"] * 900)
    with RunStore.create(tmp_path / "run", {}) as store:
        store.record(
            make_row("a"),
            {"latency_ns": np.arange(1000) * 1_000_000, "phase": phase},
        )
        store.record(make_row("b"), {"latency_ns": np.array([1, 2, 3]) * 1_000_000})
        store.finish()
    sketch = load(tmp_path / "run").sketch(per_cell=100)
    thinned = sketch["tiny/a/onnxruntime-cpu/b1"]
    assert 100 <= len(thinned) <= 200
    assert thinned.min() >= 100
    assert np.unique(np.diff(thinned)).tolist() == [8.0]
    assert sketch["tiny/b/onnxruntime-cpu/b1"].tolist() == [1.0, 2.0, 3.0]
