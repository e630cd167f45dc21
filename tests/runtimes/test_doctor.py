from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import onnxruntime
import pytest

from compile.errors import InputError
from runtimes import doctor


def test_survey_says_what_can_be_used_and_why_the_rest_cannot() -> None:
    found = dict(doctor.survey(names=["onnxruntime-cpu", "onnxruntime-cuda", "fake"]))
    assert list(found) == ["onnxruntime-cpu", "onnxruntime-cuda", "fake"]
    assert found["onnxruntime-cpu"].available
    assert onnxruntime.__version__ in found["onnxruntime-cpu"].versions.values()
    cuda = found["onnxruntime-cuda"]
    assert cuda.available or (cuda.reason and "onnxruntime-gpu" in cuda.way_out)


def test_survey_raises_when_a_runtime_or_interpreter_is_unknown() -> None:
    with pytest.raises(InputError, match="unknown runtime 'open-vino'; did you mean openvino"):
        doctor.survey(names=["open-vino"])
    with pytest.raises(InputError, match="no such interpreter"):
        doctor.survey({"fake": "/no/such/python"}, names=["fake"])


def test_survey_gives_the_reason_when_the_interpreter_cannot_run_a_worker() -> None:
    [(_, answer)] = doctor.survey({"fake": "/bin/false"}, names=["fake"])
    assert not answer.available
    assert "/bin/false cannot run a worker" in answer.reason


def test_environment_is_json_and_names_this_machine() -> None:
    facts = doctor.environment()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["cpu"]["logical_cores"] == os.cpu_count()
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert facts["memory_bytes"] == pages
    assert facts["versions"]["onnxruntime"] == onnxruntime.__version__


def only_nvidia_smi(monkeypatch: pytest.MonkeyPatch, folder: Path, command: str) -> None:
    """A PATH with nothing on it but an ``nvidia-smi`` that runs a shell command."""
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{command}\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder))


def test_environment_reads_the_gpus_that_nvidia_smi_lists(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    only_nvidia_smi(
        monkeypatch, tmp_path, "echo 'NVIDIA H100, 570.1, 81559 MiB, 1980 MHz, 700.00 W'"
    )
    facts = doctor.environment()
    assert facts["gpus"] == [
        {
            "name": "NVIDIA H100",
            "driver_version": "570.1",
            "memory.total": "81559 MiB",
            "clocks.max.sm": "1980 MHz",
            "power.limit": "700.00 W",
        }
    ]
    assert facts["compiler"] is None


def test_environment_goes_on_when_a_tool_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    only_nvidia_smi(monkeypatch, tmp_path, "exit 9")
    assert doctor.environment()["gpus"] == []
