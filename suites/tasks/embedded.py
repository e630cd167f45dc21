"""The three embedded tasks' data, made from the standard library's modules.

No text occurs twice in a split, and none of calibration and test was seen in train
(``suites.tasks.leakage``). What is taken of a split is decided by hashes of the texts, so that
neither the order of files nor of dictionaries matters.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from tokenizers import Tokenizer

from suites.tasks.corpus import Corpus, Split
from suites.tasks.examples import SPLITS, Examples
from suites.tasks.leakage import Shingles, unseen, words
from suites.tasks.prepared import Prepared
from suites.tasks.snippets import KINDS, snippets
from suites.tasks.task import Kind
from suites.tasks.tokenizer import embedded_tokenizer, frame, token_bytes, vocabulary
from suites.tasks.windows import cut_at_lines, labelled_examples, token_windows

SNIPPET_TOKENS = 32
"""Longest snippet with its special tokens; a longer one is cut into several at line ends."""
SNIPPET_WORDS = 12
"""Words and signs below which a snippet says too little."""
SNIPPETS_PER_KIND = 900
"""Most test examples of one class."""
WINDOW_TOKENS = 128
"""Tokens of a language model's input."""
TEST_WINDOWS = 1600

Piece = TypeVar("Piece")


def prepare(kind: Kind, corpus: Corpus) -> Prepared:
    """The data of the embedded task of that name."""
    makers: dict[Kind, Callable[[Corpus], Prepared]] = {
        "classification": _classification,
        "masked-lm": _masked,
        "causal-lm": _causal,
    }
    return makers[kind](corpus)


def _classification(corpus: Corpus) -> Prepared:
    """Snippets labelled by their kind. The test split holds as many of each class as there are,
    up to ``SNIPPETS_PER_KIND``."""
    tokenizer = embedded_tokenizer(corpus)

    def pieces(split: Split) -> list[tuple[str, int]]:
        whole = [s for module in corpus.split(split) for s in snippets(module.text)]
        cut = cut_at_lines([s.text for s in whole], tokenizer, SNIPPET_TOKENS - 2)
        return [
            (piece, KINDS.index(snippet.kind))
            for snippet, pieces in zip(whole, cut, strict=True)
            for piece in pieces
            if len(words(piece)) >= SNIPPET_WORDS
        ]

    chosen = _without_leaks(corpus, pieces, text_of=lambda piece: piece[0])
    counts: Counter[int] = Counter()
    test = []
    for text, label in chosen["test"]:
        counts[label] += 1
        if counts[label] <= SNIPPETS_PER_KIND:
            test.append((text, label))
    chosen["test"] = test
    splits = {s: labelled_examples(chosen[s], tokenizer, SNIPPET_TOKENS) for s in SPLITS}
    splits["test"] = splits["test"].shortest_first()
    return Prepared(splits, vocabulary(tokenizer), SNIPPET_TOKENS, KINDS)


def _causal(corpus: Corpus) -> Prepared:
    """Windows of 128 tokens behind a begin token."""
    tokenizer = embedded_tokenizer(corpus)
    known = vocabulary(tokenizer)
    first = np.array([known.first], np.int32)
    splits = _windows(corpus, tokenizer, WINDOW_TOKENS, first, np.empty(0, np.int32))
    return Prepared(splits, known, WINDOW_TOKENS, token_bytes=token_bytes(tokenizer))


def _masked(corpus: Corpus) -> Prepared:
    """Windows of 126 tokens between [CLS] and [SEP]."""
    tokenizer = embedded_tokenizer(corpus)
    before, after = frame(tokenizer)
    length = WINDOW_TOKENS - len(before) - len(after)
    splits = _windows(corpus, tokenizer, length, before, after)
    return Prepared(splits, vocabulary(tokenizer), WINDOW_TOKENS)


def _windows(
    corpus: Corpus, tokenizer: Tokenizer, length: int, before: np.ndarray, after: np.ndarray
) -> dict[Split, Examples]:
    def pieces(split: Split) -> list[tuple[str, np.ndarray]]:
        return [
            window
            for module in corpus.split(split)
            for window in token_windows(module.text, tokenizer, length)
        ]

    chosen = _without_leaks(corpus, pieces, text_of=lambda piece: piece[0])
    chosen["test"] = chosen["test"][:TEST_WINDOWS]
    splits = {
        split: Examples.of([np.concatenate([before, ids, after]) for _, ids in chosen[split]])
        for split in SPLITS
    }
    splits["test"] = splits["test"].shortest_first()
    return splits


def _without_leaks(
    corpus: Corpus, pieces: Callable[[Split], Sequence[Piece]], text_of: Callable[[Piece], str]
) -> dict[Split, list[Piece]]:
    """Each split's pieces in the order of a hash of their text: every text once, and none that
    an earlier split's modules or pieces contain."""
    seen = Shingles()
    chosen: dict[Split, list[Piece]] = {}
    for split in SPLITS:
        found = sorted(
            pieces(split), key=lambda piece: hashlib.sha256(text_of(piece).encode()).digest()
        )
        chosen[split] = [found[i] for i in unseen([text_of(piece) for piece in found], seen)]
        if split != SPLITS[-1]:
            # Both: a snippet without its comments is no part of the module's text any more.
            seen.add(module.text for module in corpus.split(split))
            seen.add(text_of(piece) for piece in found)
    return chosen
