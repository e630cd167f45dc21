"""The user's own texts: a JSONL or Parquet file with a text and perhaps a label column."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from tokenizers import Tokenizer

from compile.errors import InputError
from suites.tasks.classes import in_order
from suites.tasks.corpus import CALIBRATION_SHARE, TEST_SHARE, Split
from suites.tasks.examples import SPLITS, Examples
from suites.tasks.leakage import normalised
from suites.tasks.prepared import Prepared
from suites.tasks.task import Kind
from suites.tasks.tokenizer import frame, token_bytes, vocabulary
from suites.tasks.windows import labelled_examples, token_windows

CALIBRATION_TEXTS = 160
"""Texts that the calibration split is made to hold where it can: the shipped recipes ask for 128,
and how many texts the hashes give it varies by its square root."""
LARGEST_CALIBRATION_SHARE = 0.2

_SUFFIXES = (".jsonl", ".parquet")


def read_columns(path: Path, columns: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The rows of a file, the named columns as text.

    A number or truth value becomes its text. Raises InputError for a file that is missing, empty,
    malformed (with the line), lacks a column (with those that it has), or holds nothing or a
    structure where a text is wanted.
    """
    if path.suffix not in _SUFFIXES:
        raise InputError(f"{path}: data files end in {' or '.join(_SUFFIXES)}")
    if not path.is_file():
        raise InputError(f"{path} does not exist")
    read = _read_jsonl if path.suffix == ".jsonl" else _read_parquet
    rows = read(path, columns)
    if not rows:
        raise InputError(f"{path} holds no examples")
    return rows


def prepare_user_data(
    rows: list[tuple[str, ...]],
    kind: Kind,
    tokenizer: Tokenizer,
    max_length: int,
    source: Path,
    pad: str | None = None,
) -> Prepared:
    """Split by the hash of the text, white space aside, so that no text is in two splits and the
    order of the file does not matter; of texts that occur twice one is kept. ``pad`` is the token
    that pads, where it is known.

    Raises InputError where a split stays empty, a class has only one value, one text has two
    labels, or the tokenizer lacks what the kind needs.
    """
    known = vocabulary(tokenizer, pad)
    sizes = np.empty(0, np.int64)
    labels: tuple[str, ...] = ()
    unique = _unique(rows, source)
    if kind == "classification":
        labels = in_order(row[1] for row in unique.values())
        if len(labels) < 2:
            raise InputError(f"{source}: the only label is {labels[0]!r}; a task needs two or more")
    if kind == "masked-lm" and known.mask is None:
        raise InputError(f"{source}: the tokenizer has no mask token; masked-lm needs one")
    if kind == "causal-lm":
        sizes = token_bytes(tokenizer)
    calibration = calibration_share(len(unique))
    splits = {
        split: _examples(
            [row for key, row in unique.items() if _split(key, calibration) == split],
            kind,
            labels,
            tokenizer,
            max_length,
        )
        for split in SPLITS
    }
    for split, examples in splits.items():
        if not len(examples):
            raise InputError(f"{source}: {len(unique)} different texts leave none to {split}")
    splits["test"] = splits["test"].shortest_first()
    return Prepared(splits, known, max_length, labels, sizes)


def _examples(
    rows: list[tuple[str, ...]],
    kind: Kind,
    labels: tuple[str, ...],
    tokenizer: Tokenizer,
    max_length: int,
) -> Examples:
    if kind == "classification":
        pieces = [(text, labels.index(label)) for text, label in rows]
        return labelled_examples(pieces, tokenizer, max_length)
    if kind == "causal-lm":
        first = vocabulary(tokenizer).first
        before = np.array([] if first is None else [first], np.int32)
        after, length = np.empty(0, np.int32), max_length + 1 - len(before)
    else:
        before, after = frame(tokenizer)
        length = max_length - len(before) - len(after)
    windows = [
        np.concatenate([before, ids, after])
        for (text, *_) in rows
        for _, ids in token_windows(text, tokenizer, length)
    ]
    # A row of one token asks for nothing.
    return Examples.of([window for window in windows if len(window) > 1])


def _unique(rows: list[tuple[str, ...]], source: Path) -> dict[str, tuple[str, ...]]:
    """Hash of the normalised text -> row, in the order of the hashes."""
    unique: dict[str, tuple[str, ...]] = {}
    for row in sorted(rows):
        if not row[0].strip():
            continue
        key = hashlib.sha256(normalised(row[0]).encode()).hexdigest()
        first = unique.setdefault(key, row)
        if first[1:] != row[1:]:
            raise InputError(
                f"{source}: the text {row[0][:40]!r} has two labels, {first[1]!r} and {row[1]!r}"
            )
    if not unique:
        raise InputError(f"{source}: every text is empty")
    return dict(sorted(unique.items()))


def calibration_share(texts: int) -> float:
    """The calibration split's share of that many texts. It takes from the train split alone, so
    that the test split is the same however the file grows."""
    wanted = CALIBRATION_TEXTS / texts
    return min(max(CALIBRATION_SHARE, wanted), LARGEST_CALIBRATION_SHARE)


def _split(key: str, calibration: float) -> Split:
    share = int(key[:8], 16) / 2**32
    if share < TEST_SHARE:
        return "test"
    return "calibration" if share < TEST_SHARE + calibration else "train"


def _read_jsonl(path: Path, columns: tuple[str, ...]) -> list[tuple[str, ...]]:
    rows = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                raise InputError(f"{path}, line {number}: not UTF-8 ({error.reason})") from error
            except (ValueError, RecursionError) as error:
                raise InputError(f"{path}, line {number}: not JSON ({error})") from error
            if not isinstance(record, dict):
                raise InputError(f"{path}, line {number}: not a JSON object")
            for column in columns:
                if column not in record:
                    raise _missing(path, column, list(record), f", line {number}")
            rows.append(tuple(_text(record[c], path, f"line {number}", c) for c in columns))
    return rows


def _read_parquet(path: Path, columns: tuple[str, ...]) -> list[tuple[str, ...]]:
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for column in columns:
                if column not in file.schema_arrow.names:
                    raise _missing(path, column, file.schema_arrow.names)
            table = file.read(columns=list(dict.fromkeys(columns)))
            values = [table[column].to_pylist() for column in columns]
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path} is not a readable Parquet file: {error}") from error
    return [
        tuple(_text(v, path, f"row {n}", c) for v, c in zip(row, columns, strict=True))
        for n, row in enumerate(zip(*values, strict=True), 1)
    ]


def _missing(path: Path, column: str, present: list[str], place: str = "") -> InputError:
    return InputError(
        f"{path}{place}: there is no column {column!r}; there are {', '.join(present) or 'none'}"
    )


def _text(value: Any, path: Path, place: str, column: str) -> str:
    if isinstance(value, bool | int | float):
        return str(value)
    if not isinstance(value, str):
        found = "nothing" if value is None else f"a {type(value).__name__}"
        raise InputError(f"{path}, {place}: column {column!r} holds {found} instead of a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{path}, {place}: column {column!r} holds half a character") from error
    return value
