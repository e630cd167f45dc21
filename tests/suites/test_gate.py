"""Whole gates on fake sessions of known speed, and everything that must never pass in silence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from compile.errors import InputError
from compile.signature import Feeds
from reports.gate import Finding, GateReport
from runtimes.client import Worker
from runtimes.session import MemoryBreakdown
from suites.builder import Builder, BuildFailed
from suites.cli import main
from suites.gate.keeping import keep_baseline
from suites.gate.kept import KeptBaseline, keep
from suites.gate.pair import PairPlan
from suites.gate.rules import AccuracyRule, GateTable, GrowthRule, LatencyRule
from suites.gate.run import Recipes, gate
from suites.suite import load_suite

QUICK = PairPlan(warmup_s=0.01, rounds=3, block_s=0.01)
GATE = """
[gate]
max_pairs = 30
[[gate.rules]]
metric = "latency"
ignore = 0.2
margin = 1.0
[[gate.rules]]
metric = "size"
max_growth = 0.02
"""


@pytest.fixture
def kept(suite_file, tmp_path: Path, home: Path) -> tuple[Path, Path]:
    """A suite of two cells on the fake runtime, 3 ms a call, and its baseline: kept once for all
    tests, each of which has a copy."""
    suite = suite_file("latency_ms = 3.0", more=GATE)
    if not (home / "kept").exists():
        assert keep_baseline(str(suite), home / "kept") == 2
    shutil.copytree(home / "kept", tmp_path / "kept")
    return suite, tmp_path / "kept"


def behave(folder: Path, **behaviour: float) -> None:
    """Give a baseline's sessions another behaviour than the suite's options."""
    (artifact,) = (folder / "artifacts").iterdir()
    (artifact / "fake.json").write_text(json.dumps(behaviour))


def without_options(suite: Path) -> Path:
    suite.write_text(suite.read_text().replace("latency_ms = 3.0", ""))
    return suite


def outcomes(report: GateReport) -> dict[tuple[str, str], str]:
    return {(f.cell.split("/")[-2], f.metric): f.outcome for f in report.findings if "/" in f.cell}


def test_the_same_build_passes(kept) -> None:
    report = gate(str(kept[0]), kept[1], plan=QUICK, seed=1)
    assert report.outcome == "pass", report.lines()
    assert report.exit_code == 0
    latency = [f for f in report.findings if f.metric == "latency"]
    assert len(latency) == 2
    assert {len(f.facts["differences"]) for f in latency} != {0}
    assert set(latency[0].facts["candidate_first"]) == {True, False}


def test_a_slower_build_regresses_and_a_faster_one_passes(kept) -> None:
    suite, folder = without_options(kept[0]), kept[1]
    # The candidate takes the default 1 ms.
    behave(folder, latency_ms=0.2)
    report = gate(str(suite), folder, plan=QUICK, seed=1)
    assert report.exit_code == 1
    assert [f.outcome for f in report.findings if f.metric == "latency"] == ["regressed"] * 2
    behave(folder, latency_ms=5.0)
    assert gate(str(suite), folder, plan=QUICK, seed=1).outcome == "pass"


def test_a_slow_down_on_purpose_is_caught_and_never_passes(kept) -> None:
    suite, folder = kept
    report = gate(str(suite), folder, slow_down=1.0, plan=QUICK, seed=1)
    assert [f.outcome for f in report.findings if f.metric == "latency"] == ["regressed"] * 2
    # Within the 20 % that this gate ignores.
    report = gate(str(suite), folder, slow_down=0.02, plan=QUICK, seed=1)
    assert [f.outcome for f in report.findings if f.metric == "latency"] == ["pass"] * 2
    assert report.exit_code == 3
    assert "slowed down by 2.0% on purpose" in "\n".join(report.lines())
    with pytest.raises(InputError, match="a slow-down must lie between 0 and 1"):
        gate(str(suite), folder, slow_down=-0.1)


def test_a_side_that_dies_is_a_failure_and_no_pass(kept) -> None:
    suite, folder = without_options(kept[0]), kept[1]
    behave(folder, fault="crash", fault_at=30)
    report = gate(str(suite), folder, plan=QUICK, seed=1)
    assert report.exit_code == 4
    assert "SIGSEGV" in report.lines()[-2]


def test_what_a_builder_said_that_died_lies_beside_what_the_gate_found(
    kept, tmp_path: Path, monkeypatch
) -> None:
    suite, folder = kept
    out = tmp_path / "out"
    out.mkdir()
    (out / "builder.log").write_text("of an earlier gate")

    def killed_when_it_has_begun(builder: Builder, request: object) -> None:
        connection = connect(builder)
        connection.send(request)
        connection.recv()
        assert builder._process is not None
        builder._process.kill()
        raise BuildFailed("error", builder._how_it_died())

    connect = Builder._connect
    monkeypatch.setattr(Builder, "build", killed_when_it_has_begun)
    assert main(["gate", str(suite), "--baseline", str(folder), "--out", str(out)]) == 4
    findings = json.loads((out / "gate.json").read_text())["findings"]
    told = {f["seen"] for f in findings if f["outcome"] == "failed"}
    assert told == {f"error: the builder was killed by SIGKILL; see {out / 'builder.log'}"}
    assert "of an earlier gate" not in (out / "builder.log").read_text()

    with pytest.raises(InputError, match=r"cannot be kept: .*SIGKILL; see ") as died:
        keep_baseline(str(suite), tmp_path / "new")
    assert Path(str(died.value).rpartition("see ")[2]).is_file()


MEMORY = """
[gate]
[[gate.rules]]
metric = "memory_peak"
cells = "*/one/*"
max_growth = 0.3
"""
HELD = 256 << 20
"""More than a worker holds otherwise."""


@pytest.fixture
def stored(
    suite_file, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], tuple[Path, Path, Path]]:
    """A suite with these rules in a store of its own, its baseline, and the candidate's artifact:
    both sides' sessions can be given a behaviour."""

    def keep_it(rules: str) -> tuple[Path, Path, Path]:
        suite = suite_file(more=rules)
        monkeypatch.setenv("ASSAY_HOME", str(tmp_path / "home"))
        keep_baseline(str(suite), tmp_path / "kept")
        (artifact,) = (tmp_path / "kept" / "artifacts").iterdir()
        return suite, tmp_path / "kept", tmp_path / "home" / "artifacts" / artifact.name

    return keep_it


@pytest.mark.parametrize(("larger", "outcome"), [("candidate", "regressed"), ("baseline", "pass")])
def test_the_side_that_holds_more_memory_is_the_one_that_does(
    stored, larger: str, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite, folder, candidate = stored(MEMORY)
    if larger == "candidate":
        (candidate / "fake.json").write_text(json.dumps({"held_bytes": HELD}))
    else:
        behave(folder, held_bytes=HELD)
    read: list[int] = []
    memory = Worker.memory

    def counted(worker: Worker, feeds: Feeds) -> MemoryBreakdown:
        read.append(worker.pid)
        return memory(worker, feeds)

    monkeypatch.setattr(Worker, "memory", counted)
    report = gate(str(suite), folder, plan=QUICK, seed=1)
    (found,) = report.findings
    assert (found.metric, found.outcome) == ("memory_peak", outcome), report.lines()
    assert len(found.facts["pairs"]) == 3
    for mine, theirs in found.facts["pairs"]:
        more = mine - theirs if larger == "candidate" else theirs - mine
        assert more == pytest.approx(HELD, rel=0.1)
    # Three pairs of the one workload that has a rule, each in two processes of its own.
    assert len(read) == len(set(read)) == 6
    assert [line for line in report.ungated if line.startswith("latency")]


def test_memory_is_read_in_the_coins_order(stored, monkeypatch: pytest.MonkeyPatch) -> None:
    suite, folder, _ = stored(MEMORY)
    behave(folder, held_bytes=HELD)
    peaks: list[int | None] = []
    memory = Worker.memory

    def kept(worker: Worker, feeds: Feeds) -> MemoryBreakdown:
        found = memory(worker, feeds)
        peaks.append(found.peak_bytes)
        return found

    monkeypatch.setattr(Worker, "memory", kept)
    firsts = set()
    for seed in range(3):
        peaks.clear()
        gate(str(suite), folder, plan=QUICK, seed=seed)
        firsts |= {one > other for one, other in zip(peaks[::2], peaks[1::2], strict=True)}
    assert firsts == {True, False}


SIZE = """
[gate]
[[gate.rules]]
metric = "size"
max_growth = 0.02
"""


def test_sessions_of_unlike_contracts_do_not_pass_on_their_size(stored) -> None:
    suite, folder, _ = stored(SIZE)
    assert gate(str(suite), folder, plan=QUICK, seed=1).exit_code == 0
    behave(folder, precision="tf32")
    report = gate(str(suite), folder, plan=QUICK, seed=1)
    assert report.exit_code == 3
    told = {f.seen for f in report.findings if f.metric == "contract"}
    assert told == {"the fairness contracts differ: precision 'tf32' -> 'f32'"}


def test_a_cell_that_is_gone_or_new_is_never_passed(kept) -> None:
    suite, folder = kept
    text = suite.read_text()
    suite.write_text(text.replace("two", "three"))
    report = gate(str(suite), folder, plan=QUICK, seed=1)
    assert report.exit_code == 3
    told = {f.seen for f in report.findings if f.metric == "cell"}
    assert any("no cell of the suite" in line for line in told)
    assert "the baseline has no such cell" in told


def test_part_of_a_suite_is_never_a_pass(kept) -> None:
    report = gate(str(kept[0]), kept[1], only="one", plan=QUICK, seed=1)
    assert report.exit_code == 3
    assert any("--only 'one' left 1 of 2 cells in" in f.seen for f in report.findings)
    assert [f.outcome for f in report.findings if f.metric == "latency"] == ["pass"]


def test_another_suites_baseline_is_told(kept, tmp_path: Path) -> None:
    other = tmp_path / "others.toml"
    other.write_text(kept[0].read_text())
    report = gate(str(other), kept[1], plan=QUICK, seed=1)
    assert report.exit_code == 3
    with pytest.raises(InputError, match="holds the baseline of suite 'fakes', not of 'others'"):
        keep_baseline(str(other), kept[1])


def test_a_damaged_or_missing_baseline_is_bad_input(kept, tmp_path: Path) -> None:
    suite, folder = kept
    with pytest.raises(InputError, match=r"holds no baseline.*--keep"):
        gate(str(suite), tmp_path / "nowhere")
    (model,) = folder.glob("artifacts/*/model.onnx")
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match="keep the baseline anew"):
        gate(str(suite), folder)
    facts = json.loads((folder / "baseline.json").read_text())
    for cell in facts["cells"].values():
        cell["artifact"] = "../../elsewhere"
    (folder / "baseline.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match="no folder's name"):
        KeptBaseline.load(folder)
    (folder / "baseline.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        KeptBaseline.load(folder)


def test_a_baseline_replaces_only_a_baseline(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(InputError, match="not empty and holds no baseline"):
        keep(tmp_path / "mine", "s", {}, {}, {}, {})
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "all of it"
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        keep(tmp_path / "file", "s", {}, {}, {}, {})
    keep(tmp_path / "new", "s", {"a": {"artifact": "k"}}, {}, {}, {})
    keep(tmp_path / "new", "s", {}, {}, {}, {})
    assert KeptBaseline.load(tmp_path / "new").cells == {}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "mine", "new"]


def test_one_recipe_against_another(suite_file, tmp_path: Path) -> None:
    suite = suite_file("latency_ms = 2.0", more=GATE + "\n[recipes.mine]\npasses = []\n")
    text = suite.read_text()
    suite.write_text(text.replace("[matrix]", '[matrix]\nrecipe = ["fp32", "mine"]'))
    report = gate(str(suite), Recipes("mine", "fp32"), plan=QUICK, seed=1)
    assert report.outcome == "pass", report.lines()
    assert all("fp32" not in f.cell for f in report.findings)
    with pytest.raises(InputError, match=r"no cell has the candidate recipe 'other'.*fp32, mine"):
        gate(str(suite), Recipes("other", "fp32"))


def test_rules_without_a_cell_and_mistakes_in_them_are_refused(suite_file) -> None:
    suite = suite_file(more=GATE.replace('metric = "size"', 'metric = "size"\ncells = "*/int9/*"'))
    with pytest.raises(InputError, match=r"gate\.rules\.1: cells = .*leaves the size rule without"):
        gate(str(suite), Recipes("fp32", "fp32"))
    for wrong, told in (
        ('metric = "speed"', "speed"),
        ('metric = "latency"\nmargin = 0.01\nignore = 0.02', "has to be above ignore"),
        ('metric = "size"\nmax_growth = -0.1', "max_growth"),
        ('metric = "size"', "max_growth"),
    ):
        suite = suite_file(more=f"[[gate.rules]]\n{wrong}\n")
        with pytest.raises(InputError, match=told):
            load_suite(str(suite), ["fake"], cuda=False)


def test_the_first_rule_that_matches_is_a_cells() -> None:
    strict = LatencyRule(cells="*/int8-*/*", margin=0.03)
    table = GateTable(rules=[strict, LatencyRule(), AccuracyRule(cells="a/*")])
    assert table.of("a/int8-static/x", "latency") is strict
    assert table.of("a/fp32/x", "latency").margin == 0.05
    assert table.of("b/fp32/x", "accuracy") is None
    assert table.of("b/fp32/x", "size") is None
    default = GateTable()
    assert {rule.metric for rule in default.rules} == {
        "latency",
        "accuracy",
        "size",
        "memory_peak",
    }
    assert isinstance(default.of("x", "size"), GrowthRule)


def report(*outcomes: str) -> GateReport:
    found = [Finding("m<b>|/r", "latency", o, f"+5% & `more` {o}") for o in outcomes]  # type: ignore[arg-type]
    return GateReport("s", "fp32", found, {})


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        (["pass"], 0),
        (["pass", "inconclusive"], 3),
        (["pass", "failed", "inconclusive"], 4),
        (["failed", "regressed", "pass"], 1),
        ([], 3),
    ],
)
def test_the_worst_finding_is_the_gates(outcomes: list[str], code: int) -> None:
    assert report(*outcomes).exit_code == code


def test_every_form_tells_the_same(tmp_path: Path) -> None:
    found = report("pass", "inconclusive", "regressed", "failed")
    found.write(tmp_path)
    data = json.loads((tmp_path / "gate.json").read_text())
    assert (data["outcome"], data["exit_code"]) == ("regressed", 1)
    suite = ElementTree.fromstring((tmp_path / "junit.xml").read_bytes())
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("4", "2", "1")
    assert len(suite.findall("testcase/failure")) == 2
    # Nothing that is not a pass may read as one: no test is skipped.
    assert not suite.findall("testcase/skipped")
    text = (tmp_path / "summary.md").read_text()
    assert text.startswith("## REGRESSED: s against fp32: 1 regressed, 1 failed, 1 inconclusive")
    assert "m\\<b\\>\\|/r" in text
    assert found.lines()[-1].startswith("REGRESSED")
    assert len(found.lines()) == 5


def test_what_is_not_gated_is_told_in_every_form(tmp_path: Path) -> None:
    found = replace(report("pass"), ungated=["accuracy of 1 build of m|n: no task"])
    assert found.lines()[0] == "NOT GATED    accuracy of 1 build of m|n: no task"
    assert found.lines()[-1] == "PASS: s against fp32: 1 passed"
    found.write(tmp_path)
    assert json.loads((tmp_path / "gate.json").read_text())["ungated"] == [*found.ungated]
    suite = ElementTree.fromstring((tmp_path / "junit.xml").read_bytes())
    assert suite.findtext("system-out") == "not gated: accuracy of 1 build of m|n: no task"
    text = (tmp_path / "summary.md").read_text()
    assert text.endswith("\n\n- Not gated: accuracy of 1 build of m\\|n: no task\n")


def test_the_command_wants_exactly_one_thing_to_compare_with(capsys) -> None:
    for arguments in (
        ["gate", "release"],
        ["gate", "release", "--baseline", "a", "--keep", "b"],
        ["gate", "release", "--candidate-recipe", "fp32"],
        ["gate", "release", "--keep", "b", "--only", "x"],
        ["gate", "release", "--keep", "b", "--slow-down", "0.1"],
    ):
        assert main(arguments) == 2
        assert capsys.readouterr().err.startswith("assay: ")
