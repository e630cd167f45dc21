from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from compile.signature import Signature
from runtimes import memory
from runtimes.session import MemoryBreakdown, SessionOptions
from runtimes.torch_eager import TorchSession

MIB = 1 << 20
ME = os.getpid()


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


@pytest.fixture
def others() -> int:
    """What children of other tests hold, multiprocessing's tracker for example."""
    return memory.cpu_breakdown(0, True, []).children_bytes


@pytest.fixture
def child(others: int) -> Iterator[subprocess.Popen[str]]:
    """A process that has touched and freed 80 MiB, holds 40, and frees them when it is told to."""
    code = (
        "held = b'x' * (80 << 20); held = None; held = b'x' * (40 << 20)\n"
        "print('ready', flush=True); input(); held = None; print('freed', flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.kill()
    process.wait()


def test_children_count_in_resident_and_peak_and_their_peak_is_reset_too(
    others: int,
    child: subprocess.Popen[str],
) -> None:
    alone = memory._status(ME)["VmRSS"]
    breakdown = memory.cpu_breakdown(0, True, [])
    assert 40 * MIB < breakdown.children_bytes - others < 75 * MIB
    assert breakdown.resident_bytes == pytest.approx(alone + breakdown.children_bytes, abs=4 * MIB)
    assert memory.peak() > alone + 80 * MIB
    assert memory.own_peak() < memory.peak() - 80 * MIB
    assert memory.reset_peak()
    assert memory.peak() < memory.own_peak() + others + 75 * MIB
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write("\n")
    child.stdin.flush()
    child.stdout.readline()
    assert memory.cpu_breakdown(0, True, []).children_bytes - others < 35 * MIB


def test_without_children_they_hold_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    process(tmp_path, ME, 100)
    monkeypatch.setattr(memory, "PROC", tmp_path)
    assert memory.cpu_breakdown(0, True, []).children_bytes == 0


def test_minimum_is_weights_and_tensors() -> None:
    tensors = [np.zeros((2, 3), np.float32), np.zeros(0, np.int64)]
    assert memory.minimum(MemoryBreakdown(weights_bytes=100), tensors).minimum_bytes == 124
    assert memory.minimum(MemoryBreakdown(), tensors).minimum_bytes is None


def test_unknown_stays_none_when_proc_does_not_tell(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(memory, "PROC", tmp_path)
    assert memory.resident() is None
    assert memory.peak() is None
    assert not memory.reset_peak()
    breakdown = memory.cpu_breakdown(5, True, [])
    assert (breakdown.resident_bytes, breakdown.peak_bytes) == (None, None)
    assert breakdown.children_bytes is None


def process(proc: Path, pid: int, resident_kb: object, children: str = "") -> None:
    folder = proc / str(pid)
    (folder / "task" / str(pid)).mkdir(parents=True)
    (folder / "status").write_text(f"Name:\tx y kB\nVmHWM:\t 900 kB\nVmRSS:\t {resident_kb} kB\n")
    (folder / "task" / str(pid) / "children").write_text(children)
    (folder / "clear_refs").write_text("")


def test_children_of_children_count_and_one_that_is_gone_holds_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    process(tmp_path, ME, 100, children="7 8 ")
    process(tmp_path, 7, 10, children="9")
    process(tmp_path, 9, 1)
    monkeypatch.setattr(memory, "PROC", tmp_path)
    assert memory.resident() == 111 << 10
    assert memory.cpu_breakdown(0, True, []).children_bytes == 11 << 10
    assert memory.reset_peak()  # 8 has ended
    assert (tmp_path / "9" / "clear_refs").read_text() == "5"


def test_garbage_in_proc_is_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    process(tmp_path, ME, "many", children="seven \x00")
    monkeypatch.setattr(memory, "PROC", tmp_path)
    assert memory.resident() is None
    assert memory.peak() == 900 << 10


def test_waste_is_none_when_either_side_is_unknown() -> None:
    assert MemoryBreakdown(reserved_bytes=5).waste_bytes is None
    assert MemoryBreakdown(reserved_bytes=5, in_use_bytes=3).to_json()["waste_bytes"] == 2


def test_onnx_bytes_adds_external_data(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(bytes(10))
    (tmp_path / "model.onnx.data").write_bytes(bytes(30))
    (tmp_path / "manifest.json").write_bytes(bytes(50))
    assert memory.onnx_bytes(tmp_path / "model.onnx") == 40


def test_a_cuda_session_tells_what_its_caching_allocator_holds(
    linear_signature: Signature, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a made-up allocator: the session's tensors stay on the CPU."""
    held = {"allocated": 300, "reserved": 1000, "peak": 10_000}
    device = SimpleNamespace(type="cuda")

    def answers(what: str) -> object:
        def tell(asked: object) -> int:
            assert asked is device
            return held[what]

        return tell

    def reset(asked: object) -> None:
        held["peak"] = held["allocated"]

    module = torch.nn.Linear(32, 32)
    session = TorchSession(module, linear_signature, SessionOptions())

    def call(x: torch.Tensor) -> tuple[torch.Tensor]:
        held["peak"] = held["allocated"] + 200  # in the call, and given back
        return (module(x),)

    session.call = call
    session._device = device
    session._tensors = lambda feeds: [torch.from_numpy(feeds["x"])]
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", answers("peak"))
    monkeypatch.setattr(torch.cuda, "memory_reserved", answers("reserved"))
    monkeypatch.setattr(torch.cuda, "memory_allocated", answers("allocated"))
    monkeypatch.setattr(
        torch.cuda, "memory_stats", lambda device: {"active_bytes.all.current": 350}
    )
    found = session.memory(linear_signature.feeds({"batch": 2}))
    assert found.peak_bytes == 500
    assert (found.reserved_bytes, found.in_use_bytes, found.waste_bytes) == (1000, 300, 700)
    assert found.device_active_bytes == 350
    assert found.weights_bytes == 4 * (32 * 32 + 32)
