"""``assay run`` from end to end, on sessions whose truth is known."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
from onnx import TensorProto, helper, numpy_helper
from scipy import stats

import reports
from compile.errors import InputError
from reports.errors import ReportError
from runtimes.client import Worker
from runtimes.failures import WorkerCrashed
from suites import model_run
from suites.run import run
from suites.sessions import LiveSession


def cells(out: Path) -> pd.DataFrame:
    return reports.load(out).cells.set_index("workload")


def test_row_says_the_known_latency(suite_file, tmp_path):
    statuses = run(str(suite_file("latency_ms = 4.0")), tmp_path / "out")
    rows = cells(tmp_path / "out")
    assert statuses == ["ok", "ok"]
    samples = reports.load(tmp_path / "out").samples
    kept = samples[samples["phase"] == "sample"].groupby("cell_id")["latency_ns"]
    medians = rows["cell_id"].map(kept.median()) / 1e6
    # A sleep is never early; how late it is depends on who else is busy.
    assert medians.between(4.0, 8.0).all()
    # On a machine too busy for a quantile the row says so; else it says the samples' own.
    told = rows["latency_p50_ms"].notna()
    assert (told | rows["insufficient"].fillna("").str.contains("p50")).all()
    assert rows["latency_p50_ms"][told].to_list() == pytest.approx(medians[told].to_list())
    assert (rows["latency_p50_low_ms"][told] <= medians[told]).all()
    assert (medians[told] <= rows["latency_p50_high_ms"][told]).all()
    assert rows["relative_error"].eq(0.0).all()
    assert rows["providers"].map(json.loads).eq({"fake": 1}).all()
    # At 4 ms a call no more than 250 calls a second can be true, of one or of two examples.
    assert 125 < rows.loc["one", "throughput_samples_per_s"] <= 250
    assert 250 < rows.loc["two", "throughput_samples_per_s"] <= 500
    assert set(samples["cell_id"]) == set(rows["cell_id"])
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000
    text = (tmp_path / "out" / "report.md").read_text()
    assert "ramp" in text
    assert shlex.join(["assay", *sys.argv[1:]]) in text


@pytest.mark.parametrize(
    ("options", "status", "reason"),
    [
        ('fault = "nan"', "incorrect", "not finite"),
        ('fault = "wrong"', "incorrect", "signal to noise"),
        ('fault = "crash"\nfault_at = 30', "error", "SIGSEGV"),
        ('fault = "hang"\nfault_at = 5', "timeout", "did not answer within 5"),
        ('fault = "out-of-memory"\nfault_at = 10', "out-of-memory", "refused"),
        ('unavailable = "no such device"', "unsupported", "no such device"),
    ],
)
def test_failure_is_a_row_and_the_other_runtime_goes_on(
    suite_file, tmp_path, options, status, reason
):
    suite = suite_file(options, runtimes='["fake", "onnxruntime-cpu"]')
    suite.write_text(suite.read_text().replace("timeout = 20.0", "timeout = 5.0"))
    run(str(suite), tmp_path / "out")
    rows = reports.load(tmp_path / "out").cells
    fake = rows[rows["runtime"] == "fake"]
    assert list(fake["status"]) == [status, status]
    assert fake["reason"].str.contains(reason).all()
    assert fake["latency_p50_ms"].isna().all()
    # It was measured to the end; calls of microseconds may be restless on a busy machine.
    other = rows[rows["runtime"] == "onnxruntime-cpu"]
    assert set(other["status"]) <= {"ok", "not-stationary"}
    assert (other["samples"] > 0).all()


def test_interrupted_run_waits_for_no_call(suite_file, tmp_path, monkeypatch):
    """A worker that is in the middle of a call is killed: it would not hear a farewell."""
    held, farewells = [], []

    def interrupted(pairs, *_):
        held.extend({session.key: session for session, _ in pairs}.values())
        monkeypatch.setattr(Worker, "close", lambda worker: farewells.append(worker))
        workers.extend(session.worker for session in held)
        raise KeyboardInterrupt

    workers = []
    monkeypatch.setattr(model_run, "visit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(str(suite_file()), tmp_path / "out")
    assert len(workers) == 1
    assert farewells == []
    assert not Path(f"/proc/{workers[0].pid}").exists()


def test_cell_of_several_processes_says_how_they_differ(suite_file, tmp_path):
    suite = suite_file("latency_ms = 4.0\nuneven = 0.3")
    suite.write_text(suite.read_text().replace("processes = 1", "processes = 4"))
    assert run(str(suite), tmp_path / "out") == ["ok", "ok"]
    loaded = reports.load(tmp_path / "out")
    kept = loaded.samples[loaded.samples["phase"] == "sample"]
    for row in loaded.cells.to_dict("records"):
        calls = kept[kept["cell_id"] == row["cell_id"]]
        medians = np.log(calls.groupby("process")["latency_ns"].median() / 1e6)
        assert list(medians.index) == [0, 1, 2, 3]
        assert row["processes"] == 4
        assert row["processes_spread"] == pytest.approx(medians.std())
        assert row["processes_spread"] > 0.03  # their sleeps differ by 0.3 and no less
        p50 = row["latency_p50_ms"]
        faster = (calls["latency_ns"] <= p50 * 1e6 + 0.5).groupby(calls["process"]).mean()
        assert faster.mean() == pytest.approx(0.5, abs=0.02)
        # Student's interval of four, stretched for what successive processes have in common.
        reach = 1.4361 * stats.t.ppf(0.975, 3) * stats.sem(medians)
        low, high = np.exp(medians.mean() - reach), np.exp(medians.mean() + reach)
        assert row["latency_p50_low_ms"] == pytest.approx(min(low, p50), rel=1e-4)
        assert row["latency_p50_high_ms"] == pytest.approx(max(high, p50), rel=1e-4)
        assert row["samples"] == len(calls)
        # Every block is told apart: each has calls of one process.
        assert calls.groupby("block")["process"].nunique().eq(1).all()


def test_a_run_that_is_killed_between_processes_has_rows_and_measures_them_again(
    suite_file, tmp_path, monkeypatch
):
    suite, out = suite_file("latency_ms = 4.0"), tmp_path / "out"
    suite.write_text(suite.read_text().replace("processes = 1", "processes = 5"))
    visits = []

    def killed_in_the_fifth(*given):
        visits.append(given)
        if len(visits) == 9:  # of two workloads each
            raise KeyboardInterrupt
        return visit(*given)

    visit = model_run.visit
    monkeypatch.setattr(model_run, "visit", killed_in_the_fifth)
    with pytest.raises(KeyboardInterrupt):
        run(str(suite), out)
    reports.write(out)
    rows = cells(out)
    assert list(rows["status"]) == ["ok", "ok"]
    assert list(rows["processes"]) == [4, 4]
    assert reports.load(out).samples["process"].max() == 3
    # Two processes are no interval; the row of one stood until there were three.
    run(str(suite), out, resume=True)
    assert len(visits) == 9 + 10
    assert list(cells(out)["processes"]) == [5, 5]
    assert not list((out / "journal").glob("part-*"))


def test_load_has_the_first_process_and_plain_cells_all_of_them(suite_file, tmp_path):
    more = """
[workloads.busy]
batch = 1
[workloads.busy.load]
rate = 60
seconds = 0.3
episodes = 2
"""
    suite = suite_file("latency_ms = 4.0", more=more)
    text = suite.read_text().replace("processes = 1", "processes = 3")
    suite.write_text(text.replace('["one", "two"]', '["one", "busy"]'))
    run(str(suite), tmp_path / "out")
    loaded = reports.load(tmp_path / "out")
    rows = loaded.cells.set_index("workload")
    assert rows["status"].to_dict() == {"one": "ok", "busy": "ok"}
    assert rows.loc["one", "processes"] == 3
    assert pd.isna(rows.loc["busy", "processes"])
    assert rows.loc["busy", "episodes"] == 2
    assert loaded.samples_of(rows.loc["busy", "cell_id"])["process"].isna().all()


def test_cell_that_crashes_in_a_later_process_is_an_error_with_the_calls_of_all(
    suite_file, tmp_path, monkeypatch
):
    opened = []
    load = LiveSession.load

    def crash_in_the_second(session):
        if session.key.runtime == "fake":
            opened.append(session)
        # Whoever fails while all are loaded is asked once more, alone.
        if session.key.runtime == "fake" and len(opened) in (2, 3):
            raise WorkerCrashed("the second one died")
        load(session)

    monkeypatch.setattr(LiveSession, "load", crash_in_the_second)
    suite = suite_file("latency_ms = 4.0", runtimes='["fake", "onnxruntime-cpu"]')
    suite.write_text(suite.read_text().replace("processes = 1", "processes = 3"))
    run(str(suite), tmp_path / "out")
    loaded = reports.load(tmp_path / "out")
    rows = loaded.cells.set_index(["runtime", "workload"])
    assert rows.loc["onnxruntime-cpu", "status"].eq("ok").all()
    assert rows.loc["onnxruntime-cpu", "processes"].eq(3).all()
    assert rows.loc["fake", "status"].eq("error").all()
    assert rows.loc["fake", "reason"].str.contains("the second one died").all()
    assert rows.loc["fake", "latency_p50_ms"].isna().all()
    counts = loaded.samples.groupby("cell_id").size()
    assert (counts[rows.loc["fake", "cell_id"]] > 12).all()


def test_resumed_run_measures_only_what_is_missing(suite_file, tmp_path):
    suite, out = suite_file(), tmp_path / "out"
    run(str(suite), out, only="one")
    before = cells(out).loc["one", "finished_at"]
    run(str(suite), out, resume=True)
    rows = cells(out)
    assert sorted(rows.index) == ["one", "two"]
    assert rows.loc["one", "finished_at"] == before


def test_a_model_that_changed_under_a_resumed_run_is_refused(suite_file, ramp_model, tmp_path):
    model = tmp_path / "own.onnx"
    model.write_bytes(Path(ramp_model).read_bytes())
    suite, out = suite_file(), tmp_path / "out"
    suite.write_text(suite.read_text().replace(str(ramp_model), str(model)))
    run(str(suite), out, only="one")
    graph = onnx.load(model)
    graph.doc_string = "another one"
    graph.graph.node[0].name = "renamed"
    onnx.save(graph, model)
    with pytest.raises(InputError, match="ramp / fp32 is not the build that the run began with"):
        run(str(suite), out, resume=True)
    assert list(cells(out).index) == ["one"]
    assert (out / "report.html").exists()


def test_a_finished_build_that_cannot_be_made_any_more_ends_a_resumed_run(suite_file, tmp_path):
    suite, out = suite_file(), tmp_path / "out"
    recipe = tmp_path / "mine.toml"
    recipe.write_text("")
    suite.write_text(suite.read_text().replace("[matrix]", '[matrix]\nrecipe = ["mine.toml"]'))
    run(str(suite), out, only="one")
    # The ramp has nothing that could be fused, and a pass without an effect is an error.
    recipe.write_text('[[passes]]\npass = "fuse"\n')
    with pytest.raises(InputError, match=r"ramp / mine.toml was built .* cannot be built now"):
        run(str(suite), out, resume=True)
    assert list(cells(out).index) == ["one"]


def test_run_of_another_suite_is_not_touched(suite_file, tmp_path):
    suite, out = suite_file(), tmp_path / "out"
    run(str(suite), out, only="one")
    with pytest.raises(ReportError, match="another run"):
        run(str(suite), out)
    suite.write_text(suite.read_text() + "\n# changed\n")
    with pytest.raises(ReportError, match="suite has changed"):
        run(str(suite), out, resume=True)
    assert list(cells(out).index) == ["one"]


def test_workload_that_the_model_cannot_take_is_an_input_error(suite_file, tmp_path):
    suite = suite_file()
    suite.write_text(suite.read_text().replace("batch = 2", "batch = 2\nsequence = 8"))
    with pytest.raises(InputError, match=r"workloads\.two.*no sequence axis"):
        run(str(suite), tmp_path / "out")


def test_fresh_replaces_the_run_and_nothing_else(suite_file, tmp_path):
    suite, out = suite_file(), tmp_path / "out"
    run(str(suite), out, only="one")
    run(str(suite), out, only="two", fresh=True)
    assert list(cells(out).index) == ["two"]
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ReportError, match="not empty"):
        run(str(suite), out, only="one", fresh=True)
    assert (out / "notes.txt").read_text() == "mine"


def test_fresh_leaves_the_run_of_another_suite_of_the_same_name(suite_file, tmp_path):
    suite, out = suite_file(), tmp_path / "out"
    run(str(suite), out, only="one")
    (tmp_path / "elsewhere").mkdir()
    other = tmp_path / "elsewhere" / suite.name
    other.write_text(suite.read_text())
    with pytest.raises(InputError, match="another suite: choose another folder"):
        run(str(other), out, only="two", fresh=True)
    assert list(cells(out).index) == ["one"]


def test_reference_that_fails_is_a_row_for_every_cell(suite_file, tmp_path):
    suite = suite_file('fault = "crash"')
    suite.write_text(
        suite.read_text().replace('reference = "onnxruntime-cpu"', 'reference = "fake"')
    )
    assert run(str(suite), tmp_path / "out") == ["error", "error"]
    assert cells(tmp_path / "out")["reason"].str.contains("SIGSEGV").all()


def test_runtime_lives_in_the_environment_of_its_interpreter(suite_file, tmp_path, environment):
    environment("numpy", "onnxruntime", onnxruntime="0.1.2")
    # Relative to the suite, wherever ``assay`` is started.
    options = '[runtimes.onnxruntime-cpu]\npython = "other/bin/python"'
    suite = suite_file(runtimes='["fake", "onnxruntime-cpu"]', more=options)
    run(str(suite), tmp_path / "out", only="one")
    assert set(cells(tmp_path / "out")["status"]) <= {"ok", "not-stationary"}
    facts = json.loads((tmp_path / "out" / "run.json").read_text())
    assert facts["runtimes"]["onnxruntime-cpu"]["versions"]["onnxruntime"] == "0.1.2"
    versions = facts["versions"]
    assert versions["onnxruntime"] == onnxruntime.__version__
    assert versions["onnxruntime-cpu"]["onnxruntime"] == "0.1.2"
    assert "fake" not in versions
    report = (tmp_path / "out" / "report.md").read_text()
    assert "versions.onnxruntime-cpu.onnxruntime: 0.1.2" in report


def test_environment_without_the_runtime_is_a_row(suite_file, tmp_path, environment):
    """Every session is opened there: it does not fall back to the environment that has it."""
    environment("numpy")
    options = '[runtimes.onnxruntime-cpu]\npython = "other/bin/python"'
    suite = suite_file(runtimes='["onnxruntime-cpu"]', more=options)
    suite.write_text(
        suite.read_text().replace('reference = "onnxruntime-cpu"', 'reference = "fake"')
    )
    assert run(str(suite), tmp_path / "out") == ["unsupported", "unsupported"]
    assert cells(tmp_path / "out")["reason"].str.contains("No module named 'onnxruntime'").all()


def test_recipe_that_needs_data_asks_for_a_task(suite_file, tmp_path):
    suite = suite_file(runtimes='["onnxruntime-cpu"]')
    suite.write_text(suite.read_text().replace("[matrix]", '[matrix]\nrecipe = ["int8-static"]'))
    with pytest.raises(InputError, match="give the model a task"):
        run(str(suite), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_recipe_calibrates_on_synthetic_inputs_where_the_suite_says_so(suite_file, tmp_path):
    random = np.random.default_rng(0)
    weight = numpy_helper.from_array(random.normal(size=(256, 256)).astype(np.float32), "weight")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"])],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 256])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 256])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
    onnx.save(model, tmp_path / "layer.onnx")
    suite = suite_file(runtimes='["onnxruntime-cpu"]')
    text = suite.read_text().replace("[matrix]", '[matrix]\nrecipe = ["int8-static"]')
    text = text.replace("[models.ramp]", '[models.ramp]\ncalibration = "synthetic"')
    suite.write_text(text.replace('source = "', 'source = "layer.onnx" # '))
    run(str(suite), tmp_path / "out", only="one")
    row = cells(tmp_path / "out").loc["one"]
    assert row["status"] in ("ok", "not-stationary")  # microseconds, on a machine that may be busy
    assert row["integer_kernels"] == 1
    assert row["weights_ratio"] < 0.27
    assert 0 < row["relative_error"] < 0.05


def test_option_that_a_runtime_does_not_have_is_found_before_anything_is_built(
    suite_file, tmp_path
):
    with pytest.raises(InputError, match=r"fakes\.toml: runtimes\.fake: .*no option 'laziness'"):
        run(str(suite_file("laziness = 3")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_mistake_found_while_building_leaves_the_folder_free(suite_file, tmp_path):
    suite, out = suite_file(), tmp_path / "out"
    text = suite.read_text()
    (tmp_path / "cut.onnx").write_bytes(b"not a model")
    suite.write_text(text.replace('source = "', 'source = "cut.onnx" # '))
    with pytest.raises(InputError, match=r"fakes\.toml: models\.ramp.*not an ONNX file"):
        run(str(suite), out)
    assert not out.exists()
    suite.write_text(text)
    assert run(str(suite), out, only="one") == ["ok"]


def test_mistake_in_the_last_model_is_found_before_the_first_is_timed(suite_file, tmp_path):
    suite, out = suite_file(), tmp_path / "out"
    (tmp_path / "cut.onnx").write_bytes(b"not a model")
    text = suite.read_text().replace('model = ["ramp"]', 'model = ["ramp", "cut.onnx"]')
    suite.write_text(text)
    with pytest.raises(InputError, match=r"cut\.onnx"):
        run(str(suite), out)
    assert not out.exists()


def test_batch_that_the_model_does_not_have_is_refused(suite_file, tmp_path, ramp_model):
    model = onnx.load(ramp_model)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, tmp_path / "one.onnx")
    suite = suite_file()
    suite.write_text(suite.read_text().replace(str(ramp_model), str(tmp_path / "one.onnx")))
    with pytest.raises(InputError, match=r"workloads\.two.*batch is fixed at 1; batch = 2"):
        run(str(suite), tmp_path / "out")
    assert run(str(suite), tmp_path / "out", only="one") == ["ok"]


def test_sizes_are_relative_to_fp32_also_where_fp32_has_no_cell(suite_file, tmp_path):
    suite = suite_file(runtimes='["onnxruntime-cpu"]')
    suite.write_text(suite.read_text().replace("[matrix]", '[matrix]\nrecipe = ["fp32", "mine"]'))
    suite.write_text(
        suite.read_text().replace("[models.ramp]", "[recipes.mine]\npasses = []\n[models.ramp]")
    )
    run(str(suite), tmp_path / "out", only="mine")
    assert cells(tmp_path / "out")["artifact_ratio"].eq(1.0).all()


def test_hostile_names_stay_text(suite_file, tmp_path):
    name = "<script>alert(1)</script>/../../x"
    suite = suite_file()
    text = suite.read_text().replace('"ramp"', json.dumps(name))
    suite.write_text(text.replace("[models.ramp]", f"[models.{json.dumps(name)}]"))
    run(str(suite), tmp_path / "out", only="one")
    assert "<script>alert(1)" not in (tmp_path / "out" / "report.html").read_text()
    assert list(cells(tmp_path / "out")["model"]) == [name]
    assert {p.name for p in tmp_path.iterdir()} == {"out", "fakes.toml"}


BAD = {
    "no-such-suite": ("nothing.toml", "no suite 'nothing.toml'"),
    "syntax": ("[matrix\n", "not valid TOML"),
    "unknown-key": ("colour = 1\n", "colour: unknown 'colour'"),
    "unknown-runtime": ('runtime = ["onnxruntime-cpuu"]', "did you mean 'onnxruntime-cpu'"),
    "unknown-reference": (
        'reference = "openvinoo"',
        "reference: unknown 'openvinoo', allowed are ",
    ),
    "reference-of-other-kind": (
        'reference = "torch-eager"',
        "fakes.toml: reference: torch-eager opens no ONNX file, and model 'ramp' is one",
    ),
    "reference-on-a-device": (
        'reference = "onnxruntime-cuda"',
        "fakes.toml: reference: references run on the CPU, onnxruntime-cuda on cuda only",
    ),
    "unknown-recipe": ('recipe = ["int9"]', "unknown recipe 'int9'"),
    "empty-matrix": ("model = []", "matrix.model"),
    "negative-batch": ("batch = -1", "workloads.one.batch"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_suite_is_one_line_and_exit_code_2(suite_file, tmp_path, case):
    given, message = BAD[case]
    suite = suite_file()
    text = suite.read_text()
    if case == "no-such-suite":
        suite = Path(given)
    elif case == "unknown-key":
        suite.write_text(given + text)
    elif case == "syntax":
        suite.write_text(text + given)
    elif case in ("unknown-runtime", "empty-matrix"):
        old = 'runtime = ["fake"]' if case == "unknown-runtime" else 'model = ["ramp"]'
        suite.write_text(text.replace(old, given))
    elif "reference" in case:
        suite.write_text(text.replace('reference = "onnxruntime-cpu"', given))
    elif case == "unknown-recipe":
        suite.write_text(text.replace("[matrix]", f"[matrix]\n{given}"))
    else:
        suite.write_text(text.replace("batch = 1", given))
    result = subprocess.run(
        [sys.executable, "-m", "assay", "run", str(suite), "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert result.returncode == 2
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("assay: ")
    assert message in lines[0]
    assert "fake," not in lines[0]  # a tool of the tests, which no user is offered
    assert not (tmp_path / "out").exists()
