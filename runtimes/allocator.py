"""The process's C allocator: which it is, what it holds, and one state for all that is measured.

glibc gives large blocks back to the kernel as soon as they are freed, and learns not to: when a
block that it had mapped is freed, it raises the size from which it maps blocks to that block's,
and what it keeps of a free heap to twice as much, up to 32 and 64 MiB (mallopt(3)). How fast a
call is then depends on what the process happened to free before. A small encoder on torch, batch
8 x 128, took thousands of page faults and a sixth longer for each call in a process that had freed
nothing large than in one that had (``scripts/truth.py`` shows both). A server that has seen a few
large requests is in the learnt state, so every worker starts in it.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
MMAP_THRESHOLD = 32 << 20
"""Where glibc's own learning ends: blocks of this size and more are always mapped."""
TRIM_THRESHOLD = 64 << 20
SETTINGS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
"""Variables by which a user settles the same: then theirs hold."""
REPLACEMENTS = ("jemalloc", "tcmalloc", "mimalloc")
MAPS = Path("/proc/self/maps")


class _Mallinfo2(ctypes.Structure):
    """glibc's ``struct mallinfo2`` (malloc.h, glibc >= 2.33), all fields ``size_t``."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def settle() -> str:
    """Put the allocator into its learnt state and say what it is, for the fairness contract.

    ``glibc, mmap 32 MiB, trim 64 MiB``; the user's own settings where the environment has some;
    the name of an allocator that was loaded in its place; ``system`` where nothing is known.
    """
    if replacement := _replacement():
        return replacement
    if given := [f"{name}={os.environ[name]}" for name in SETTINGS if name in os.environ]:
        return f"set by {', '.join(given)}"
    try:
        mallopt = ctypes.CDLL(None).mallopt
        _ = ctypes.CDLL(None).gnu_get_libc_version
    except (AttributeError, OSError):
        return "system"
    taken = (mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD), mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD))
    if not all(taken):
        return "glibc"
    return f"glibc, mmap {MMAP_THRESHOLD >> 20} MiB, trim {TRIM_THRESHOLD >> 20} MiB"


def held() -> tuple[int, int] | None:
    """Bytes (reserved, in use) of glibc's malloc over all arenas.

    reserved = arena + hblkhd, in use = uordblks + hblkhd, where ``hblkhd`` is what was mapped
    block by block. None without glibc >= 2.33, or where another allocator took its place.
    """
    if _replacement():
        return None
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError):
        return None
    mallinfo2.restype = _Mallinfo2
    info = mallinfo2()
    return info.arena + info.hblkhd, info.uordblks + info.hblkhd


def _replacement() -> str | None:
    """An allocator that was loaded in glibc's place, by the file that it came from."""
    try:
        mapped = MAPS.read_text()
    except OSError:
        return None
    return next((name for name in REPLACEMENTS if f"lib{name}" in mapped), None)
