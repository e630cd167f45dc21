"""Memory of the running process and its children: pages from /proc, and what the C allocator holds.

The kernel counts pages, the C allocator counts what it asked the kernel for (``reserved``) and
what its callers hold (``in use``); the difference is kept for reuse and wasted until then. An
allocator on top of ``malloc`` (ONNX Runtime's CPU arena, torch's Python objects) looks wholly "in
use" from below.

A worker's children count: a runtime may do its work in processes of its own. Pages that several of
them share are counted for each, and the sum of their peaks is an upper bound of the peak of their
sum, because they need not peak together.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from runtimes import allocator
from runtimes.session import MemoryBreakdown

PROC = Path("/proc")
RESET_PEAK = "5"
"""proc(5), ``/proc/PID/clear_refs``, Linux 4.0."""


def resident() -> int | None:
    """Resident set (VmRSS) of this process and its children, in bytes; None where /proc does not
    tell."""
    return _sum("VmRSS", _family())


def peak() -> int | None:
    """Their largest resident sets (VmHWM) in bytes since they began or ``reset_peak`` worked."""
    return _sum("VmHWM", _family())


def own_peak() -> int | None:
    """Largest resident set of this process alone."""
    return _status(os.getpid()).get("VmHWM")


def reset_peak() -> bool:
    """Make ``peak`` start again at the present resident set: write 5 to /proc/PID/clear_refs.

    False where the kernel refuses (containers whose /proc is read-only): then ``peak`` covers the
    process's whole life, and whoever wants the peak of one call must report None.
    """
    for pid in _family():
        process = PROC / str(pid)
        try:
            (process / "clear_refs").write_text(RESET_PEAK)
        except OSError:
            if pid == os.getpid() or process.exists():  # a child that has just ended has no peak
                return False
    return True


def cpu_breakdown(
    weights_bytes: int | None, peak_known: bool, tensors: Iterable[np.ndarray]
) -> MemoryBreakdown:
    """The breakdown of a session whose memory is the process's own and its children's.

    ``peak_known`` is what ``reset_peak`` answered before the call that is described; ``tensors``
    are that call's inputs and outputs, for the theoretical minimum.
    """
    held = allocator.held()
    family = list(_family())
    # Each is read once: the peak is then never below the resident set.
    told = {pid: _status(pid) for pid in family}
    resident, peak = (
        _sum_of(status.get(key) for status in told.values()) for key in ("VmRSS", "VmHWM")
    )
    children = _sum_of(told[pid].get("VmRSS") for pid in family[1:]) if resident else None
    return replace(
        minimum(MemoryBreakdown(weights_bytes=weights_bytes), tensors),
        resident_bytes=resident,
        children_bytes=children,
        peak_bytes=peak if peak_known else None,
        reserved_bytes=held[0] if held else None,
        in_use_bytes=held[1] if held else None,
    )


def minimum(breakdown: MemoryBreakdown, tensors: Iterable[np.ndarray]) -> MemoryBreakdown:
    """The same with ``minimum_bytes`` = weights + inputs + outputs of one call."""
    if breakdown.weights_bytes is None:
        return breakdown
    total = breakdown.weights_bytes + sum(tensor.nbytes for tensor in tensors)
    return replace(breakdown, minimum_bytes=total)


def onnx_bytes(model: Path) -> int:
    """Bytes of an ONNX model's weights: its file and the external data files beside it.

    The file also holds the graph, which is small beside them.
    """
    files = (path for path in model.parent.iterdir() if path.name.startswith(model.name))
    return sum(path.stat().st_size for path in files)


def _family() -> Iterator[int]:
    """This process, and then its children, theirs, and so on (``task/*/children``; kernels
    without CONFIG_PROC_CHILDREN tell of none)."""
    waiting = [os.getpid()]
    while waiting:
        pid = waiting.pop(0)
        yield pid
        for file in (PROC / str(pid) / "task").glob("*/children"):
            try:
                waiting += [int(child) for child in file.read_text().split()]
            except (OSError, ValueError):
                continue  # the thread has just ended


def _sum(key: str, pids: Iterable[int]) -> int | None:
    return _sum_of(_status(pid).get(key) for pid in pids)


def _sum_of(parts: Iterable[int | None]) -> int | None:
    """Of those that are known; None where the first, the process itself, is not. A child that
    ended meanwhile holds nothing."""
    first, *rest = [*parts] or [0]
    return None if first is None else first + sum(part or 0 for part in rest)


def _status(pid: int) -> dict[str, int]:
    """A process's memory fields in bytes; none where /proc does not tell."""
    try:
        lines = (PROC / str(pid) / "status").read_text(errors="replace").splitlines()
    except OSError:
        return {}
    cells = [line.split() for line in lines if line.endswith(" kB")]
    return {
        cell[0].rstrip(":"): int(cell[1]) * 1024
        for cell in cells
        if len(cell) == 3 and cell[1].isdecimal()
    }
