"""Memory of the running process: resident pages from /proc, and what the C allocator holds.

The kernel counts pages, the C allocator counts what it asked the kernel for (``reserved``) and
what its callers hold (``in use``); the difference is kept for reuse and wasted until then. An
allocator on top of ``malloc`` (ONNX Runtime's CPU arena, torch's Python objects) looks wholly "in
use" from below: ONNX Runtime's Python interface does not tell its arena's statistics, so its
idle part is not counted as waste.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from runtimes import allocator
from runtimes.session import MemoryBreakdown

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")


def resident() -> int | None:
    """Resident set size (VmRSS) in bytes; None where /proc does not tell."""
    return _status().get("VmRSS")


def peak() -> int | None:
    """Largest resident set (VmHWM) in bytes since the process began or ``reset_peak`` worked."""
    return _status().get("VmHWM")


def reset_peak() -> bool:
    """Make ``peak`` start again at the present resident set: write 5 to /proc/self/clear_refs.

    False where the kernel refuses (containers whose /proc is read-only): then ``peak`` covers the
    process's whole life, and whoever wants the peak of one call must report None.
    """
    try:
        CLEAR_REFS.write_text("5")
    except OSError:
        return False
    return True


def cpu_breakdown(
    weights_bytes: int | None, peak_known: bool, tensors: Iterable[np.ndarray]
) -> MemoryBreakdown:
    """The breakdown of a session whose memory is the process's own.

    ``peak_known`` is what ``reset_peak`` answered before the call that is described; ``tensors``
    are that call's inputs and outputs, for the theoretical minimum.
    """
    held = allocator.held()
    status = _status()  # read once: the peak is then never below the resident set
    return replace(
        minimum(MemoryBreakdown(weights_bytes=weights_bytes), tensors),
        resident_bytes=status.get("VmRSS"),
        peak_bytes=status.get("VmHWM") if peak_known else None,
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


def _status() -> dict[str, int]:
    """The process's memory fields in bytes; none where /proc does not tell."""
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return {}
    cells = (line.split() for line in lines if line.endswith(" kB"))
    return {key.rstrip(":"): int(count) * 1024 for key, count, _ in cells}
