"""What fits into memory together, on a machine and inside of a container."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from suites.blocks import SessionKey, available_memory, blocks


def test_blocks_keep_to_the_budget_and_lose_nobody():
    keys = [SessionKey("m", f"r{i}", "openvino", "default", "cpu") for i in range(5)]
    found = blocks(keys, dict(zip(keys, (4, 4, 4, 20, 1), strict=True)).get, 10)
    assert [len(block) for block in found] == [2, 1, 1, 1]
    assert [key for block in found for key in block] == keys


def test_a_containers_limit_counts(tmp_path: Path):
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    (tmp_path / "memory.stat").write_text("anon 100000\ninactive_file 300000\n")
    assert available_memory(tmp_path) == 900_000


def test_a_full_container_has_nothing_left(tmp_path: Path):
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("4000\n")
    (tmp_path / "memory.stat").write_text("inactive_file 0\n")
    assert available_memory(tmp_path) == 0


@pytest.mark.parametrize("limit", ["max\n", None])
def test_without_a_limit_it_is_the_machines(
    tmp_path: Path, limit: str | None, monkeypatch: pytest.MonkeyPatch
):
    machine = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: machine)
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
        (tmp_path / "memory.current").write_text("4000\n")
    assert available_memory(tmp_path) == machine.available
