"""Fakes that are right on a known share of a task's examples: rows and gates have to say so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
from onnx import TensorProto, helper, numpy_helper

from runtimes.fake import misled
from suites.gate.keeping import keep_baseline
from suites.gate.pair import PairPlan
from suites.gate.run import gate
from suites.run import run
from suites.scoring import BATCH
from suites.suite_file import TaskEntry
from suites.tasks.registry import load_task

CLASSES = 4
VOCABULARY = 1 << 15
SHARE = 0.25
QUICK = PairPlan(warmup_s=0.01, rounds=3, block_s=0.01)
TASK = {"kind": "classification", "data": "data.jsonl", "tokenizer": "embedded"}

TABLE = "\n".join(f'{key} = "{value}"' for key, value in TASK.items())


@pytest.fixture(scope="module")
def tokens_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file that answers 0, 1, 2, 3 whatever the tokens are: always class 3."""
    table = numpy_helper.from_array(np.zeros((VOCABULARY, CLASSES), np.float32), "table")
    bias = numpy_helper.from_array(np.arange(CLASSES, dtype=np.float32), "bias")
    axis = numpy_helper.from_array(np.array([1], np.int64), "axis")
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "input_ids"], ["embedded"]),
            helper.make_node("ReduceMean", ["embedded", "axis"], ["mean"], keepdims=0),
            helper.make_node("Add", ["mean", "bias"], ["logits"]),
        ],
        "tokens",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [table, bias, axis],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
    path = tmp_path_factory.mktemp("model") / "tokens.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture
def suite(tmp_path: Path, tokens_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The model on fake sessions, with a task of which it is right on most examples."""
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path / "home"))
    write_data(tmp_path, usual=3)
    path = tmp_path / "known.toml"
    path.write_text(f"""
threads = 1
reference = "onnxruntime-cpu"
[matrix]
model = ["tokens"]
runtime = ["fake"]
recipe = ["plain"]
workload = ["one"]
[models.tokens]
source = "{tokens_model}"
task = "mine"
[tasks.mine]
{TABLE}
[recipes.plain]
passes = []
[workloads.one]
batch = 1
sequence = 16
[measure]
processes = 1
max_seconds = 0.5
[runtimes.fake]
timeout = 20.0
[gate]
max_pairs = 4
[[gate.rules]]
metric = "accuracy"
max_drop = 0.01
""")
    return path


def write_data(folder: Path, usual: int) -> None:
    """Texts of which nine in ten have one label."""
    rows = [
        {
            "text": f"sentence {i} is about {i % 7}",
            "label": i // 10 % CLASSES if i % 10 == 0 else usual,
        }
        for i in range(3000)
    ]
    (folder / "data.jsonl").write_text("\n".join(json.dumps(row) for row in rows))


def truth(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Which test examples are of class 3, and which a fake is misled on, found without a
    session."""
    task = load_task(TaskEntry.model_validate(TASK), folder)
    batches = list(task.test(BATCH))
    turned = [misled({"input_ids": batch.feeds["input_ids"]}, SHARE) for batch in batches]
    return np.concatenate([batch.labels for batch in batches]) == 3, np.concatenate(turned)


def test_a_row_says_on_how_many_examples_a_fake_is_right(suite: Path, tmp_path: Path) -> None:
    suite.write_text(
        suite.read_text().replace("[runtimes.fake]", f"[runtimes.fake]\nmisled = {SHARE}")
    )
    right, turned = truth(tmp_path)
    assert 0.15 < turned.mean() < 0.35
    run(str(suite), tmp_path / "out")
    (row,) = pd.read_parquet(tmp_path / "out" / "cells.parquet").to_dict("records")
    assert row["status"] == "ok", row["reason"]
    # Upside down, class 3 becomes class 0: those that were of class 3 are lost.
    zeros = load_labels(tmp_path) == 0
    expected = np.where(turned, zeros, right)
    assert row["examples"] == len(right)
    assert row["accuracy"] == pytest.approx(expected.mean())
    assert row["metric_reference"] == pytest.approx(right.mean())
    assert row["accuracy_drop"] == pytest.approx(right.mean() - expected.mean())
    assert row["flips"] == (expected != right).sum()
    assert row["top1_agreement"] == pytest.approx(1 - turned.mean())


def test_a_gate_on_data_that_changed_does_not_pass_on_size(suite: Path, tmp_path: Path) -> None:
    rules = suite.read_text().partition("[[gate.rules]]")[0]
    suite.write_text(f'{rules}[[gate.rules]]\nmetric = "size"\nmax_growth = 0.02\n')
    keep_baseline(str(suite), tmp_path / "kept")
    report = gate(str(suite), tmp_path / "kept", plan=QUICK, seed=1)
    assert report.exit_code == 0
    assert any(line.startswith("accuracy of tokens / plain / fake") for line in report.ungated)
    # No rule asks for accuracy: nothing was scored, which would be kept.
    assert not list((tmp_path / "home").rglob("scores/*"))
    write_data(tmp_path, usual=0)
    report = gate(str(suite), tmp_path / "kept", plan=QUICK, seed=1)
    assert report.exit_code == 3
    (told,) = [f for f in report.findings if f.outcome != "pass"]
    assert (told.cell, told.metric) == ("tokens", "data")


def load_labels(folder: Path) -> np.ndarray:
    task = load_task(TaskEntry.model_validate(TASK), folder)
    return np.concatenate([batch.labels for batch in task.test(BATCH)])


@pytest.mark.parametrize(("usual", "outcome"), [(3, "pass"), (0, "regressed")])
def test_a_gate_pairs_the_right_sides(
    suite: Path, tmp_path: Path, usual: int, outcome: str
) -> None:
    """The baseline is misled. Where class 3 is usual that makes it the worse one, and where class
    0 is, the better one."""
    write_data(tmp_path, usual)
    folder = tmp_path / "kept"
    keep_baseline(str(suite), folder)
    (artifact,) = (folder / "artifacts").iterdir()
    (artifact / "fake.json").write_text(json.dumps({"misled": SHARE}))
    # Scores are kept by key: what answers otherwise is another artifact.
    manifest = json.loads((artifact / "manifest.json").read_text())
    (artifact / "manifest.json").write_text(json.dumps(manifest | {"key": "misled"}))
    report = gate(str(suite), folder, plan=QUICK, seed=1)
    (found,) = report.findings
    assert (found.metric, found.outcome) == ("accuracy", outcome), report.lines()
    right, turned = truth(tmp_path)
    labels = load_labels(tmp_path)
    theirs = np.where(turned, labels == 0, right)
    assert found.facts["drop"] == pytest.approx(theirs.mean() - right.mean())
    assert found.facts["lost"] == (theirs & ~right).sum()
    assert found.facts["gained"] == (right & ~theirs).sum()
