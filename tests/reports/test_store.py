from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import reports
from reports.errors import ReportError
from reports.store import RunStore

RUN = {"suite": "demo", "suite_text": "[matrix]\n", "command": "assay run demo"}


def test_store_gives_back_what_was_recorded(tmp_path: Path, make_row) -> None:
    latencies = np.array([5, 4, 6], np.int64)
    with RunStore.create(tmp_path / "run", RUN) as store:
        store.record(
            make_row("fp32", order=2, samples=3),
            {
                "latency_ns": latencies,
                "phase": np.array(["warmup", "sample", "sample"]),
                "block": np.array([0, 0, 1]),
            },
        )
        store.record(make_row("int8", order=1, status="timeout", reason="60 s"))
        store.record_examples(
            {"model": "tiny", "recipe": "fp32", "runtime": "x", "attention": "d", "device": "cpu"},
            {"label": np.array([1, 0]), "predicted": np.array([1, 1]), "correct": [True, False]},
        )
        store.finish()
    results = reports.load(tmp_path / "run")
    assert results.cells["recipe"].tolist() == ["int8", "fp32"]
    assert str(results.cells["samples"].dtype) == "Int64"
    samples = results.samples_of("tiny/fp32/onnxruntime-cpu/b1")
    assert samples["latency_ns"].tolist() == [5, 4, 6]
    assert samples["index"].tolist() == [0, 1, 2]
    assert samples["phase"].tolist() == ["warmup", "sample", "sample"]
    assert samples["disturbed"].tolist() == [False] * 3
    assert len(results.samples) == 3
    assert results.examples["example"].tolist() == [0, 1]
    assert results.examples["correct"].tolist() == [1, 0]
    assert results.run["suite_text"] == RUN["suite_text"]


def test_cause_is_kept_and_null_for_a_cell_that_an_older_version_recorded(
    tmp_path: Path, make_row
) -> None:
    causes = np.array(["load + throttled", None], object)
    with RunStore.create(tmp_path / "run", RUN) as store:
        store.record(make_row("fp32"), {"latency_ns": [1, 2], "cause": causes})
        store.record(make_row("int8"), {"latency_ns": [3]})
        for path in (tmp_path / "run" / "journal").glob("*.parquet"):
            if (table := pq.read_table(path)).num_rows == 1:
                pq.write_table(table.drop_columns("cause"), path)
        store.finish()
    samples = reports.load(tmp_path / "run").samples.set_index("latency_ns")["cause"]
    assert samples[1] == "load + throttled"
    assert samples[[2, 3]].isna().all()


def test_store_resumes_with_finished_cells_when_the_writer_was_killed(
    tmp_path: Path, make_row
) -> None:
    folder = tmp_path / "run"
    script = (
        "import os, json, sys; from reports.store import RunStore\n"
        "store = RunStore.create(sys.argv[1], json.loads(sys.argv[2]))\n"
        "store.record(json.loads(sys.argv[3]), {'latency_ns': [1, 2]})\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run(
        [sys.executable, "-c", script, str(folder), json.dumps(RUN), json.dumps(make_row())],
        cwd=Path(__file__).parents[2],
        check=False,
    )
    (folder / "journal" / ".cell-half.json.draft").write_text('{"cell_id": "ha')
    with RunStore.resume(folder, RUN) as store:
        assert store.finished() == {make_row()["cell_id"]}
        store.record(make_row("int8"), {"latency_ns": [3]})
        store.finish()
    results = reports.load(folder)
    assert set(results.cells["recipe"]) == {"fp32", "int8"}
    assert sorted(results.samples["latency_ns"]) == [1, 2, 3]
    assert len(results.run["resumed"]) == 1


def test_store_keeps_the_second_row_when_a_cell_is_recorded_twice(tmp_path: Path, make_row) -> None:
    with RunStore.create(tmp_path / "run", RUN) as store:
        store.record(make_row(), {"latency_ns": [1, 2]})
        store.record(make_row(status="error", reason="gone"))
        store.finish()
    results = reports.load(tmp_path / "run")
    assert results.cells["status"].tolist() == ["error"]
    assert len(results.samples) == 0


def test_store_keeps_names_harmless_in_file_names(tmp_path: Path, make_row) -> None:
    names = ["../../etc/passwd", "<script>alert(1)</script>", "a" * 5000, "/", "\0", "é\n"]
    with RunStore.create(tmp_path / "run", RUN) as store:
        for name in names:
            store.record(make_row(cell_id=name, model=name), {"latency_ns": [1]})
        store.finish()
    assert set(reports.load(tmp_path / "run").cells["model"]) == set(names)
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
    assert all(len(path.name) < 60 for path in (tmp_path / "run" / "journal").iterdir())


def test_store_counts_right_tokens_of_a_text(tmp_path: Path) -> None:
    axes = dict.fromkeys(("model", "recipe", "runtime", "attention", "device", "task"), "x")
    with RunStore.create(tmp_path / "run", RUN) as store:
        store.record_examples(
            axes, {"correct": np.array([17, 3]), "tokens": np.array([20, 9]), "nll": [31.5, 8.25]}
        )
        store.finish()
    examples = reports.load(tmp_path / "run").examples
    assert examples["correct"].tolist() == [17, 3]
    assert examples["nll"].tolist() == [31.5, 8.25]


def test_create_refuses_a_folder_that_holds_another_run(tmp_path: Path) -> None:
    RunStore.create(tmp_path / "run", RUN).close()
    with pytest.raises(ReportError, match=r"another run.*--resume"):
        RunStore.create(tmp_path / "run", RUN)


def test_create_refuses_a_folder_with_other_files(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ReportError, match="not empty and not a run"):
        RunStore.create(tmp_path, RUN)


def test_create_names_the_folder_when_it_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError, match=r"cannot write to .*file/run: Not a directory"):
        RunStore.create(tmp_path / "file" / "run", RUN)


def test_resume_refuses_another_suite(tmp_path: Path) -> None:
    RunStore.create(tmp_path / "run", RUN).close()
    with pytest.raises(ReportError, match="another suite"):
        RunStore.resume(tmp_path / "run", {**RUN, "suite_text": "[matrix]\nbatch = 2\n"})


def test_resume_refuses_a_folder_that_is_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="not a run's folder"):
        RunStore.resume(tmp_path, RUN)


def test_resume_refuses_a_run_that_is_being_written(tmp_path: Path) -> None:
    with (
        RunStore.create(tmp_path / "run", RUN),
        pytest.raises(ReportError, match="being written by another process"),
    ):
        RunStore.resume(tmp_path / "run", RUN)


def test_store_names_the_entry_when_the_journal_is_damaged(tmp_path: Path, make_row) -> None:
    with RunStore.create(tmp_path / "run", RUN) as store:
        store.record(make_row())
        [path] = (tmp_path / "run" / "journal").glob("cell-*.json")
        path.write_text(path.read_text()[:40])
        with pytest.raises(ReportError, match=rf"{path.name} is damaged"):
            store.finished()


def test_record_keeps_finished_cells_when_the_disk_is_full(
    tmp_path: Path, make_row, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunStore.create(tmp_path / "run", RUN) as store:
        store.record(make_row("fp32"), {"latency_ns": [1]})

        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("reports.store.os.fsync", full)
        with pytest.raises(ReportError, match=r"no space left for .*finished cells are kept"):
            store.record(make_row("int8"), {"latency_ns": [1]})
        monkeypatch.undo()
        assert store.finished() == {make_row("fp32")["cell_id"]}
        assert not list((tmp_path / "run" / "journal").glob(".*"))
        store.finish()
    assert len(reports.load(tmp_path / "run").cells) == 1


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ({"phase": ["sample"]}, "no column 'latency_ns'"),
        ({"latency_ns": [1, 2], "block": [0]}, "'block' has 1 values, not 2"),
        ({"latency_ns": ["fast"]}, "'latency_ns' is not int64"),
        ({"latency_ns": [1], "phase": ["cooling"]}, "'phase' can be warmup or sample"),
        ({"latency_ns": [1], "colour": ["red"]}, "unknown column 'colour'"),
        ({"latency_ns": [1, None]}, "'latency_ns' has a null"),
    ],
)
def test_record_refuses_samples(tmp_path: Path, make_row, samples: dict, message: str) -> None:
    with RunStore.create(tmp_path / "run", RUN) as store:
        with pytest.raises(ReportError, match=message):
            store.record(make_row(), samples)
        assert store.finished() == set()


def test_finish_and_report_stay_small_when_there_are_many_samples(tmp_path: Path, make_row) -> None:
    script = (
        "import json, sys, numpy as np, reports; from reports.store import RunStore\n"
        "row = json.loads(sys.argv[2])\n"
        "store = RunStore.create(sys.argv[1], {})\n"
        "latencies = np.random.default_rng(0).integers(1e6, 2e6, 400_000)\n"
        "for cell in range(10):\n"
        "    store.record({**row, 'cell_id': str(cell)}, {'latency_ns': latencies})\n"
        "store.finish()\n"
        "reports.write(sys.argv[1])\n"
        # Not ru_maxrss: it starts at what the process that forked this one held.
        "status = open('/proc/self/status').read()\n"
        "print(int(status.split('VmHWM:')[1].split()[0]) / 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "run"), json.dumps(make_row())],
        cwd=Path(__file__).parents[2],
        check=True,
        capture_output=True,
        text=True,
    )
    assert float(done.stdout) < 300
    file = pq.ParquetFile(tmp_path / "run" / "samples.parquet")
    assert file.metadata.num_rows == 4_000_000
    assert file.metadata.num_row_groups > 30


def test_load_names_the_file_when_it_is_truncated(tmp_path: Path, make_row) -> None:
    with RunStore.create(tmp_path / "run", RUN) as store:
        store.record(make_row())
        store.finish()
    path = tmp_path / "run" / "cells.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ReportError, match=r"cells\.parquet is damaged.*journal"):
        reports.load(tmp_path / "run")


def test_load_refuses_an_unfinished_run(tmp_path: Path) -> None:
    RunStore.create(tmp_path / "run", RUN).close()
    with pytest.raises(ReportError, match="not finished"):
        reports.load(tmp_path / "run")


def test_load_refuses_a_newer_schema(tmp_path: Path, make_row) -> None:
    with RunStore.create(tmp_path / "run", RUN) as store:
        store.record(make_row())
        store.finish()
    path = tmp_path / "run" / "cells.parquet"
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({"assay_schema_version": "99"}), path)
    with pytest.raises(ReportError, match=r"schema version 99.*newer Assay"):
        reports.load(tmp_path / "run")


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_load_names_the_file_when_run_json_is_damaged(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ReportError, match=r"run\.json"):
        reports.load(tmp_path)


def test_resuming_takes_the_old_tables_away_until_it_is_finished(tmp_path: Path, make_row) -> None:
    """A resumed run that is killed must not leave tables that lack what it measured."""
    folder = tmp_path / "run"
    with RunStore.create(folder, RUN) as store:
        store.record(make_row("fp32"))
        store.finish()
    store = RunStore.resume(folder, RUN)
    store.record(make_row("int8"))
    store.close()  # as a killed process would
    assert not (folder / "cells.parquet").exists()
    reports.write(folder)
    assert sorted(reports.load(folder).cells["recipe"]) == ["fp32", "int8"]
