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
        hashes, _ = _shingles(texts)
        self._hashes = np.sort(np.concatenate([self._hashes, hashes]))

    def containment(self, texts: Sequence[str]) -> np.ndarray:
        """Share of each text's shingles in this collection, float64 ``(texts,)``; 0 for a text
        shorter than one."""
        if not len(self._hashes):
            return np.zeros(len(texts))
        hashes, owners = _shingles(texts)
        places = np.searchsorted(self._hashes, hashes)
        places[places == len(self._hashes)] = 0
        found = self._hashes[places] == hashes
        shingles = np.bincount(owners, minlength=len(texts))
        return np.bincount(owners, found, len(texts)) / np.maximum(shingles, 1)


def unseen(texts: Sequence[str], seen: Shingles) -> list[int]:
    """Positions of the texts that are neither contained in ``seen`` nor repeat an earlier one."""
    kept: list[int] = []
    known: set[str] = set()
    for position, contained in enumerate(seen.containment(texts)):
        key = normalised(texts[position])
        if key not in known and contained < LIMIT:
            known.add(key)
            kept.append(position)
    return kept


def _shingles(texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """Polynomial hashes of all runs of ``SHINGLE`` words, uint64, modulo 2**64, and the number
    of the text that each is of."""
    # One dictionary of words and one array for all texts: a text at a time takes three times as
    # long, and the corpus has a million words.
    hash_of: dict[str, int] = {}
    hashes: list[int] = []
    lengths: list[int] = []
    for text in texts:
        start = len(hashes)
        for word in words(text):
            known = hash_of.get(word)
            if known is None:
                known = hash_of[word] = zlib.crc32(word.encode())
            hashes.append(known)
        lengths.append(len(hashes) - start)
    owners = np.repeat(np.arange(len(lengths)), lengths)
    if len(hashes) < SHINGLE:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    of_words = np.array(hashes, np.uint64)
    runs = len(hashes) - SHINGLE + 1
    result, power = np.zeros(runs, np.uint64), _FACTOR
    with np.errstate(over="ignore"):
        for offset in range(SHINGLE):
            result += of_words[offset : offset + runs] * power
            power *= _FACTOR
    whole = owners[:runs] == owners[SHINGLE - 1 :]
    return result[whole], owners[:runs][whole]
