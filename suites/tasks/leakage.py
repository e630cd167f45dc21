"""Near-duplicates between splits, found by word shingles.

A text is normalised to its words and signs, so that white space and indentation do not matter,
and seen as the set of all runs of eight of them. The share of a text's shingles that occur in
the train split is its *containment* (Broder, "On the resemblance and containment of documents",
1997). What is contained by half or more says little about a model that has read the rest, and is
left out of the other splits.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence

import numpy as np

SHINGLE = 8
LIMIT = 0.5
"""Containment in the train split from which an example counts as seen."""

_WORD = re.compile(r"\w+|[^\w\s]")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def words(text: str) -> list[str]:
    """Words and single signs, all white space gone."""
    return _WORD.findall(text)


def normalised(text: str) -> str:
    """The text's words with one space between them: what two duplicates have in common."""
    return " ".join(words(text))


class Shingles:
    """The shingles of a growing collection of texts, as sorted 64-bit hashes (8 bytes each)."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._hashes = np.empty(0, np.uint64)
        self.add(texts)

    def add(self, texts: Iterable[str]) -> None:
        self._hashes = np.sort(np.concatenate([self._hashes, *map(_shingles, texts)]))

    def containment(self, text: str) -> float:
        """Share of the text's shingles in this collection; 0 for a text shorter than one."""
        hashes = _shingles(text)
        if not len(hashes) or not len(self._hashes):
            return 0.0
        found = np.searchsorted(self._hashes, hashes)
        found[found == len(self._hashes)] = 0
        return float(np.mean(self._hashes[found] == hashes))


def unseen(texts: Sequence[str], seen: Shingles) -> list[int]:
    """Positions of the texts that are neither contained in ``seen`` nor repeat an earlier one."""
    kept: list[int] = []
    known: set[str] = set()
    for position, text in enumerate(texts):
        key = normalised(text)
        if key not in known and seen.containment(text) < LIMIT:
            known.add(key)
            kept.append(position)
    return kept


def _shingles(text: str) -> np.ndarray:
    """Polynomial hashes of all runs of ``SHINGLE`` words, uint64, modulo 2**64."""
    hashes = np.array([zlib.crc32(word.encode()) for word in words(text)], dtype=np.uint64)
    if len(hashes) < SHINGLE:
        return np.empty(0, np.uint64)
    runs = np.lib.stride_tricks.sliding_window_view(hashes, SHINGLE)
    with np.errstate(over="ignore"):
        powers = np.cumprod(np.full(SHINGLE, _FACTOR))
        return (runs * powers).sum(axis=1, dtype=np.uint64)
