"""Which sessions are open at the same time, and so measured in one interleaved block."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from suites.cell import Cell

CGROUP = Path("/sys/fs/cgroup")
SHARE_OF_MEMORY = 0.6
"""Of what is available when the run starts: the rest is the page cache's and the user's."""


@dataclass(frozen=True)
class SessionKey:
    """What one worker opens: a cell without its workload."""

    model: str
    recipe: str
    runtime: str
    attention: str
    device: str

    @classmethod
    def of(cls, cell: Cell) -> SessionKey:
        return cls(cell.model, cell.recipe, cell.runtime, cell.attention, cell.device)

    @property
    def label(self) -> str:
        shown = [self.model, self.recipe, self.runtime]
        shown += [] if self.attention == "default" else [self.attention]
        shown += [] if self.device == "cpu" else [self.device]
        return " / ".join(shown)


def by_session(cells: Iterable[Cell]) -> dict[SessionKey, list[Cell]]:
    """Cells that one worker serves together, in their order."""
    grouped: dict[SessionKey, list[Cell]] = {}
    for cell in cells:
        grouped.setdefault(SessionKey.of(cell), []).append(cell)
    return grouped


def blocks(
    keys: Iterable[SessionKey], bytes_of: Callable[[SessionKey], int], budget: int | None = None
) -> list[list[SessionKey]]:
    """Split the sessions of one model into blocks that fit into memory together, in their order.

    ``bytes_of`` estimates what a session will hold. A session that fits nowhere has a block of
    its own: it may still work, and what it says if it does not belongs into its row.
    """
    if budget is None:
        budget = int(available_memory() * SHARE_OF_MEMORY)
    result: list[list[SessionKey]] = []
    used = budget + 1
    for key in keys:
        size = bytes_of(key)
        if used + size > budget:
            result.append([])
            used = 0
        result[-1].append(key)
        used += size
    return result


def available_memory(cgroup: Path = CGROUP) -> int:
    """Bytes that may still be taken: the machine's, or what a container's limit leaves of them."""
    machine = psutil.virtual_memory().available
    try:
        limit = int((cgroup / "memory.max").read_text())
        used = int((cgroup / "memory.current").read_text())
        # Files that were read are kept as long as nobody needs the room.
        facts = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        used -= int(facts.get("inactive_file", 0))
    except (OSError, ValueError):  # no such group, or "max": no limit
        return machine
    return min(machine, max(0, limit - used))


def session_bytes(artifact_bytes: int, runtime: str) -> int:
    """A worker's resident set, roughly: the libraries, the weights as loaded and once more as
    repacked by the runtime, and half of that again for activations."""
    libraries = 450 << 20 if runtime.startswith("torch") else 150 << 20
    return libraries + int(2.5 * artifact_bytes)
