"""What ``exclude`` means, for every pass alike: shell patterns for the names of layers.

A layer answers to its own name and to those of its weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase


def matching(patterns: Sequence[str], names: Iterable[str]) -> str | None:
    """The first of the patterns that one of a layer's names matches."""
    tried = list(names)
    return next((p for p in patterns if any(fnmatchcase(name, p) for name in tried)), None)


def unmatched(patterns: Sequence[str], names: Iterable[str]) -> list[str]:
    """The patterns that none of the names matches."""
    tried = list(names)
    return [p for p in patterns if not any(fnmatchcase(name, p) for name in tried)]
