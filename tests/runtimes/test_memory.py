from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from runtimes import memory
from runtimes.session import MemoryBreakdown

MIB = 1 << 20


def test_peak_keeps_what_resident_gave_back_until_it_is_reset() -> None:
    assert memory.reset_peak()
    before = memory.resident()
    block = np.ones(64 * MIB, np.uint8)
    during = memory.resident()
    del block
    assert during - before > 60 * MIB
    assert memory.peak() >= during - MIB  # the kernel's counters lag by some pages
    assert memory.resident() < during - 60 * MIB
    assert memory.reset_peak()
    assert memory.peak() < during - 60 * MIB


def test_minimum_is_weights_and_tensors() -> None:
    tensors = [np.zeros((2, 3), np.float32), np.zeros(0, np.int64)]
    assert memory.minimum(MemoryBreakdown(weights_bytes=100), tensors).minimum_bytes == 124
    assert memory.minimum(MemoryBreakdown(), tensors).minimum_bytes is None


def test_unknown_stays_none_when_proc_does_not_tell(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(memory, "STATUS", tmp_path / "missing")
    monkeypatch.setattr(memory, "CLEAR_REFS", tmp_path / "no" / "folder")
    assert memory.resident() is None
    assert memory.peak() is None
    assert not memory.reset_peak()
    breakdown = memory.cpu_breakdown(5, True, [])
    assert (breakdown.resident_bytes, breakdown.peak_bytes) == (None, None)


def test_waste_is_none_when_either_side_is_unknown() -> None:
    assert MemoryBreakdown(reserved_bytes=5).waste_bytes is None
    assert MemoryBreakdown(reserved_bytes=5, in_use_bytes=3).to_json()["waste_bytes"] == 2


def test_onnx_bytes_adds_external_data(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(bytes(10))
    (tmp_path / "model.onnx.data").write_bytes(bytes(30))
    (tmp_path / "manifest.json").write_bytes(bytes(50))
    assert memory.onnx_bytes(tmp_path / "model.onnx") == 40
