"""The C allocator's state, in fresh processes where it matters what was freed before."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from runtimes import allocator

MIB = 1 << 20
HOUSE = Path(__file__).resolve().parents[2]
TWELVE_CALLS = """
import resource, sys
import numpy as np
from runtimes import allocator
print(allocator.settle() if sys.argv[1] == "settled" else "as it is")
def call():
    # Three blocks that are alive together, like the activations of one layer.
    return [np.ones(8 << 20, np.uint8) for _ in range(3)]
for _ in range(4):
    call()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    call()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 8)
"""


def twelve_calls(state: str, **environment: str) -> tuple[str, int]:
    """What the allocator says of itself, and the page faults of each of the last eight calls."""
    done = subprocess.run(
        [sys.executable, "-c", TWELVE_CALLS, state],
        cwd=HOUSE,
        env={**os.environ, "PYTHONPATH": str(HOUSE), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    name, faults = done.stdout.splitlines()
    return name, int(faults)


def test_settled_allocator_keeps_what_a_call_frees() -> None:
    name, faults = twelve_calls("settled")
    assert name == "glibc, mmap 32 MiB, trim 64 MiB"
    assert faults < 100
    # The same calls in a process as it comes give 24 MiB back and take them again each time: 6144
    # small pages, or fewer where the kernel has huge ones.
    assert twelve_calls("as it is")[1] > 500


def test_settings_of_the_user_hold() -> None:
    name, faults = twelve_calls("settled", MALLOC_TRIM_THRESHOLD_="1000000")
    assert name == "set by MALLOC_TRIM_THRESHOLD_=1000000"
    assert faults > 500


def test_allocator_in_glibcs_place_is_named_and_not_accounted_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = tmp_path / "maps"
    maps.write_text("7f00-7f01 r-xp 00000000 08:01 42 /usr/lib/x86_64-linux-gnu/libjemalloc.so.2\n")
    monkeypatch.setattr(allocator, "MAPS", maps)
    assert allocator.settle() == "jemalloc"
    assert allocator.held() is None


def test_allocator_counts_held_bytes_as_used_and_freed_ones_as_waste() -> None:
    _, used = allocator.held()
    # 1,000 blocks of 64 KiB stay below malloc's mapping threshold, so that freeing them in
    # the middle of the heap leaves them reserved.
    blocks = [np.ones(64 << 10, np.uint8) for _ in range(1000)]
    reserved_with, used_with = allocator.held()
    assert 62 * MIB < used_with - used < 68 * MIB
    assert reserved_with >= used_with
    keep = blocks[-1]
    del blocks
    reserved_after, used_after = allocator.held()
    assert used_after - used < 2 * MIB
    assert reserved_after - used_after > 50 * MIB
    assert keep[0] == 1
