"""A task's data after all the work on text is done: arrays that load in a moment.

Finding, checking and tokenizing text takes seconds and libraries that the process which reports
to the user should not carry. It happens once; what it gives is one ``.npz`` file of plain arrays
in the data folder, found by a hash of everything that decides its content.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from suites.tasks.cache import cached
from suites.tasks.corpus import Split
from suites.tasks.examples import SPLITS, Examples

VERSION = 3
"""Raised whenever the same files would give other examples."""
USER_VERSION = 2
"""The same of a user's own file alone."""


@dataclass(frozen=True)
class Vocabulary:
    """What a task needs to know of a tokenizer. None where it has no such token."""

    size: int
    pad: int
    first: int | None
    """What a sequence begins with ([CLS], <s>, ...)."""
    mask: int | None
    special: tuple[int, ...]


@dataclass(frozen=True)
class Prepared:
    """Tokenized examples of the three splits; the test split is ordered shortest first."""

    splits: Mapping[Split, Examples]
    vocabulary: Vocabulary
    max_length: int
    labels: tuple[str, ...] = ()
    token_bytes: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    """int64 ``(vocabulary,)``: bytes of text of each token; empty where nobody asks."""
    fingerprint: str = ""


def load_prepared(material: Mapping[str, Any], make: Callable[[Path], None]) -> Prepared:
    """The data that ``material`` (JSON values) decides: from the cache, or written there by
    ``make`` (with ``save_prepared``, to the path that it is given)."""
    versions = {"version": VERSION, "tokenizers": importlib.metadata.version("tokenizers")}
    text = json.dumps({**material, **versions}, sort_keys=True, allow_nan=False)
    fingerprint = hashlib.sha256(text.encode()).hexdigest()
    name = f"task-{fingerprint[:16]}.npz"
    path = cached(name, make)
    try:
        return _load(path, fingerprint)
    except Exception:  # noqa: BLE001 - a damaged file raises anything, from zlib to tokenize
        path.unlink(missing_ok=True)  # and is made anew, once
        return _load(cached(name, make), fingerprint)


def save_prepared(data: Prepared, path: Path) -> None:
    vocabulary = data.vocabulary
    arrays = {
        f"{split}_{name}": getattr(examples, name)
        for split, examples in data.splits.items()
        for name in ("tokens", "ends", "labels")
    }
    known = (vocabulary.size, vocabulary.pad, vocabulary.first, vocabulary.mask, data.max_length)
    arrays["sizes"] = np.array([-1 if value is None else value for value in known], np.int64)
    arrays["special"] = np.array(vocabulary.special, np.int64)
    arrays["token_bytes"] = data.token_bytes
    arrays["labels"] = np.array(data.labels, np.str_)
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def _load(path: Path, fingerprint: str) -> Prepared:
    with np.load(path, allow_pickle=False) as arrays:
        size, pad, first, mask, max_length = (int(value) for value in arrays["sizes"])
        return Prepared(
            splits={
                split: Examples(*(arrays[f"{split}_{n}"] for n in ("tokens", "ends", "labels")))
                for split in SPLITS
            },
            vocabulary=Vocabulary(
                size,
                pad,
                None if first < 0 else first,
                None if mask < 0 else mask,
                tuple(arrays["special"].tolist()),
            ),
            max_length=max_length,
            labels=tuple(arrays["labels"].tolist()),
            token_bytes=arrays["token_bytes"],
            fingerprint=fingerprint,
        )
