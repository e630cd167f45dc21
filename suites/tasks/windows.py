"""Cutting text into examples of a length that a model takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer

from suites.tasks.examples import Examples

SHORTEST = 16
"""Tokens below which what is left of a longer text is not worth a window of its own."""


def token_windows(text: str, tokenizer: Tokenizer, length: int) -> list[tuple[str, np.ndarray]]:
    """Consecutive windows of ``length`` tokens (int32, without special ones) and their text. A
    shorter rest is left out, unless it is the whole text."""
    encoding = tokenizer.encode(text, add_special_tokens=False)
    ids = np.array(encoding.ids, np.int32)
    offsets = encoding.offsets  # Each access builds the whole list anew.
    windows = []
    for start in range(0, len(ids), length):
        stop = min(start + length, len(ids))
        if start == 0 or stop - start >= SHORTEST:
            span = text[offsets[start][0] : offsets[stop - 1][1]]
            windows.append((span, ids[start:stop]))
    return windows


def cut_at_lines(texts: Sequence[str], tokenizer: Tokenizer, length: int) -> list[list[str]]:
    """Of each text, consecutive pieces of at most ``length`` tokens. A piece ends with a line where
    its second half has a line end, else after ``length`` tokens."""
    encodings = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return [
        _cut_at_lines(text, encoding.offsets, length)
        for text, encoding in zip(texts, encodings, strict=True)
    ]


def _cut_at_lines(text: str, offsets: list[tuple[int, int]], length: int) -> list[str]:
    pieces = []
    start = 0
    while start < len(offsets):
        stop = min(start + length, len(offsets))
        if stop < len(offsets):
            ends = range(stop, start + length // 2, -1)
            stop = next((e for e in ends if "\n" in text[slice(*offsets[e - 1])]), stop)
        pieces.append(text[offsets[start][0] : offsets[stop - 1][1]])
        start = stop
    return pieces


def labelled_examples(
    pieces: Sequence[tuple[str, int]], tokenizer: Tokenizer, max_length: int
) -> Examples:
    """Texts and labels, tokenized with the tokenizer's special tokens and cut at a length."""
    tokenizer.enable_truncation(max_length)
    try:
        encodings = tokenizer.encode_batch([text for text, _ in pieces])
    finally:
        tokenizer.no_truncation()
    rows = [np.array(encoding.ids, np.int32) for encoding in encodings]
    return Examples.of(rows, [label for _, label in pieces])
