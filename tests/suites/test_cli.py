"""Exit codes of the command line: what a pipeline decides on."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

import suites.gate.run
import suites.run
from suites.cli import main


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        (["ok"], 0),
        (["ok", "unsupported", "not-stationary"], 0),
        (["ok", "error"], 4),
        (["unsupported", "unsupported"], 4),
        (["not-stationary", "unsupported"], 4),
    ],
)
def test_a_run_succeeds_where_something_was_measured_and_nothing_failed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, statuses: list[str], code: int
) -> None:
    monkeypatch.setattr(suites.run, "run", lambda *_, **__: statuses)
    assert main(["run", "bert", "--out", str(tmp_path / "out")]) == code


def test_an_operator_of_the_users_own_is_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 3]) for n in "xy"]
    node = helper.make_node("Frobnicate", ["x"], ["y"], domain="com.acme")
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.acme", 1)]
    path = tmp_path / "custom.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    suite = tmp_path / "s.toml"
    suite.write_text(
        '[matrix]\nmodel = ["custom.onnx"]\nruntime = ["onnxruntime-cpu"]\nworkload = ["one"]\n'
        "[workloads.one]\nbatch = 1\n"
    )
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path / "home"))
    for arguments in (
        ["build", str(path), "-o", str(tmp_path / "made")],
        ["run", str(suite), "--out", str(tmp_path / "out")],
    ):
        assert main(arguments) == 2
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert line.startswith("assay: ")
        assert f"{path} cannot be run" in line
        assert "com.acme:Frobnicate is not a registered function/op" in line
        assert "home" not in line


def test_an_interrupted_command_names_a_way_on_that_it_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(suites.run, "run", interrupted)
    monkeypatch.setattr(suites.gate.run, "gate", interrupted)
    assert main(["run", "bert", "--out", str(tmp_path / "out")]) == 130
    assert "--resume goes on" in capsys.readouterr().err
    assert main(["gate", "release", "--baseline", "b", "--out", str(tmp_path / "gate")]) == 130
    assert capsys.readouterr().err == "assay: interrupted\n"
