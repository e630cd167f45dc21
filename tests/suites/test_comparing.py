"""``assay compare`` from the command line, with the tasks' own formulas."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from reports.store import RunStore
from suites.cli import main
from suites.comparing import stored_drop
from suites.measure.paired import tango_interval, weighted_interval

AXES = {"model": "m", "recipe": "r", "runtime": "fake", "attention": "default", "device": "cpu"}


def write(folder: Path, correct: np.ndarray, **columns: object) -> str:
    with RunStore.create(folder, {"suite": "s", "suite_text": ""}) as store:
        row = {**AXES, "workload": "one", "cell_id": "1", "suite": "s", "status": "ok"}
        scored = {"task": "t", "metric": "accuracy", "metric_value": float(correct.mean())}
        store.record({**row, **scored, **columns})
        store.record_examples(
            {**AXES, "task": "t"}, {"correct": correct, "label": np.zeros(len(correct), int)}
        )
        store.finish()
    return str(folder)


def test_drop_of_right_and_wrong_is_tangos():
    before, after = np.ones(500), np.where(np.arange(500) < 20, 0, 1)
    found = stored_drop("accuracy", {"correct": before}, {"correct": after}, 0.99)
    assert found.drop == pytest.approx(0.04)
    assert (found.low, found.high) == pytest.approx(tango_interval(20, 0, 500, 0.99))


def test_drop_of_masked_tokens_weighs_by_tokens():
    tokens = np.array([10.0, 30.0, 20.0])
    before = {"correct": np.array([5.0, 20.0, 10.0]), "tokens": tokens}
    after = {"correct": np.array([4.0, 18.0, 10.0]), "tokens": tokens}
    found = stored_drop("accuracy", before, after, 0.95)
    assert found.drop == pytest.approx(3 / 60)
    assert found.low == pytest.approx(weighted_interval(np.array([1, 2, 0]), tokens).low)


def test_drop_of_bits_per_byte_is_the_rise_of_nats():
    before, after = {"nll": np.array([10.0, 30.0])}, {"nll": np.array([11.0, 33.0])}
    for examples in (before, after):
        examples["tokens"] = np.array([4.0, 9.0])
    assert stored_drop("bits_per_byte", before, after, 0.95).drop == pytest.approx(0.1)


def test_exit_code_says_what_was_found(tmp_path, capsys):
    right, wrong = np.ones(400, int), np.where(np.arange(400) < 40, 0, 1)
    good, bad = write(tmp_path / "good", right), write(tmp_path / "bad", wrong)
    assert main(["compare", good, good]) == 0
    assert main(["compare", bad, good]) == 0
    assert main(["compare", good, bad, "--out", str(tmp_path / "told")]) == 1
    assert capsys.readouterr().out.strip().splitlines()[-1] == "WORSE: 1 worse"
    (judgement,) = json.loads((tmp_path / "told" / "compare.json").read_text())["judgements"]
    low, high = tango_interval(40, 0, 400, 0.95)
    assert judgement["facts"]["accuracy_drop_low"] == pytest.approx(low)
    assert judgement["facts"]["accuracy_drop_high"] == pytest.approx(high)
    other = write(tmp_path / "other", np.ones(300, int))
    assert main(["compare", good, other]) == 3


def test_bad_input_is_one_line_and_exit_code_2(tmp_path, capsys):
    run = write(tmp_path / "run", np.ones(4, int))
    other = write(tmp_path / "other", np.ones(4, int), recipe="another")
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "run.json").write_text("{}")
    for folder, message in (
        (tmp_path / "nothing", "not a run's folder"),
        (tmp_path / "unfinished", "the run was not finished"),
        (other, "no cell in common"),
    ):
        assert main(["compare", run, str(folder)]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("assay: ")
        assert message in line
    assert main(["compare", run, run, "--out", f"{run}/run.json/deep"]) == 2
    assert "run.json" in capsys.readouterr().err
