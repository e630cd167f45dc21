"""Where zeros may lie: anywhere, or so that each group of m inputs keeps n at most."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Pattern:
    """``n:m``: of each m neighbouring inputs of an output, n weights stay at most (Mishra et al.
    2021, "Accelerating sparse deep neural networks", for 2:4)."""

    n: int
    m: int

    @property
    def sparsity(self) -> float:
        return 1 - self.n / self.m

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"


def parse_pattern(text: str) -> Pattern | None:
    """``"2:4"`` as a Pattern, ``"unstructured"`` as None. Raises ValueError for anything else."""
    if text == "unstructured":
        return None
    found = re.fullmatch(r"([1-9]\d{0,3}):([1-9]\d{0,3})", text)
    if not found or int(found[1]) >= int(found[2]):
        raise ValueError(
            'a pattern is "unstructured", or "n:m" with n weights kept of each m, n below m'
        )
    return Pattern(int(found[1]), int(found[2]))
