"""A run's folder: a journal of finished cells, merged into three Parquet files at the end.

Each cell is one JSON file, written beside its final name and renamed, after the Parquet file of
its samples. A killed run therefore loses no finished cell, and a half-written one is never seen.
Merging streams from file to file, so that memory stays bounded whatever the number of samples.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from reports.errors import ReportError
from reports.schema import (
    EXAMPLES,
    SAMPLES,
    arrow_schema,
    examples_table,
    samples_table,
    validate_row,
)

JOURNAL = "journal"
RUN = "run.json"
CELLS = "cells.parquet"
SAMPLES_FILE = "samples.parquet"
EXAMPLES_FILE = "examples.parquet"
_ROWS_IN_GROUP = 256
_SAMPLES_IN_GROUP = 65_536


class RunStore:
    """The folder of one run, open for writing by one process.

    ``run`` is what goes into ``run.json``: any JSON, of which ``suite_text`` is hashed to tell
    one suite from another. The report reads ``suite``, ``suite_text``, ``command``,
    ``environment``, ``versions`` and ``git`` from it.
    """

    def __init__(self, folder: Path, lock: FileLock) -> None:
        self.folder = folder
        self._journal = folder / JOURNAL
        self._lock = lock

    @classmethod
    def create(cls, folder: Path | str, run: Mapping[str, Any]) -> RunStore:
        """Begin a run in a new or empty folder.

        Raises ReportError for a folder that holds a run or anything else, or cannot be written.
        """
        folder = Path(folder)
        if (folder / RUN).exists():
            raise ReportError(
                f"{folder} holds another run: go on with it by --resume, or name another folder"
            )
        with _explained(folder):
            if folder.is_dir() and any(folder.iterdir()):
                raise ReportError(f"{folder} is not empty and not a run: name another folder")
            (folder / JOURNAL).mkdir(parents=True, exist_ok=True)
        store = cls(folder, _locked(folder))
        store._write_run({**run, "suite_sha256": _sha256(run.get("suite_text", ""))})
        return store

    @classmethod
    def resume(cls, folder: Path | str, run: Mapping[str, Any] | None = None) -> RunStore:
        """Go on with the run in ``folder``; its finished cells are kept.

        ``run`` is this session's own ``run.json``: it must have the same ``suite_text``, and is
        kept under ``resumed``, since the machine may have changed in between. Raises ReportError
        for a folder without a run, one of another suite, and one that a process still writes.
        """
        folder = Path(folder)
        kept = read_run(folder)
        if run is not None and kept.get("suite_sha256") != _sha256(run.get("suite_text", "")):
            raise ReportError(
                f"{folder} holds a run of another suite, or the suite has changed since: "
                "name another folder, or put the suite back as it was"
            )
        with _explained(folder):
            (folder / JOURNAL).mkdir(exist_ok=True)
        store = cls(folder, _locked(folder))
        if run is not None:
            # Merged from the journal, which is about to grow: should this session be killed, the
            # tables of the one before must not pass for the run's.
            for table in (CELLS, SAMPLES_FILE, EXAMPLES_FILE):
                (folder / table).unlink(missing_ok=True)
            again = {key: value for key, value in run.items() if key != "suite_text"}
            store._write_run({**kept, "resumed": [*kept.get("resumed", []), again]})
        return store

    def finished(self) -> set[str]:
        """Ids of the cells that have a row, whatever its status, and not for the time being."""
        return {row["cell_id"] for row in self.rows()}

    def rows(self) -> Iterator[dict[str, Any]]:
        """The finished rows, one at a time, in no order. Raises ReportError for a damaged one."""
        for path in self._journal.glob("cell-*.json"):
            yield _read_row(path)

    def record(
        self,
        row: Mapping[str, Any],
        samples: Mapping[str, np.ndarray] | None = None,
        for_now: bool = False,
    ) -> None:
        """Keep one finished cell; or, ``for_now``, what is known of one that is not. That stands in
        the tables of a run that ends before the cell does, and is no reason not to measure it.

        ``samples`` has ``latency_ns`` (n,) and, where known, ``block``, ``phase`` ("warmup" or
        "sample"), ``disturbed`` and ``cause``, each (n,). A cell recorded twice keeps the second.
        Raises ReportError for a row that is not valid, and for a disk that is full.
        """
        full = validate_row(row)
        digest = _sha256(full["cell_id"])[:32]
        stem = f"{'part' if for_now else 'cell'}-{digest}"
        columns = None if samples is None else samples_table(full["cell_id"], samples)
        path = self._journal / f"{stem}.parquet"
        if columns is not None:
            write_whole(path, lambda file: _write_table(columns, file))
        else:
            path.unlink(missing_ok=True)
        write_whole(self._journal / f"{stem}.json", json.dumps(full).encode())
        if not for_now:
            for path in self._journal.glob(f"part-{digest}.*"):
                path.unlink()

    def record_examples(
        self, axes: Mapping[str, str], examples: Mapping[str, np.ndarray | list[Any]]
    ) -> None:
        """Keep the per-example results of one build on one runtime.

        ``axes`` has ``model``, ``recipe``, ``runtime``, ``attention``, ``device`` and ``task``;
        ``examples`` the other columns of ``reports.schema.EXAMPLES``, each (n,). ``example``
        counts from 0 unless given. Recorded twice for the same axes, the second is kept.
        """
        table = examples_table(axes, examples)
        stem = f"examples-{_sha256(json.dumps(dict(axes), sort_keys=True))[:32]}"
        path = self._journal / f"{stem}.parquet"
        write_whole(path, lambda file: _write_table(table, file))

    def finish(self, facts: Mapping[str, Any] | None = None) -> None:
        """Merge the journal into the three Parquet files, and release the folder.

        The journal stays: it is what a resumed run goes on from. ``facts`` are added to
        ``run.json``: what is known of a run only at its end.
        """
        if facts:
            self._write_run({**read_run(self.folder), **facts})
        placed = []
        for path in [*self._journal.glob("cell-*.json"), *self._journal.glob("part-*.json")]:
            row = _read_row(path)
            order = row["order"]
            placed.append((order is None, order or 0, row["finished_at"] or "", path))
        cells = [path for *_, path in sorted(placed)]
        self._merge(CELLS, arrow_schema(), _row_batches(cells))
        samples = [p for c in cells if (p := c.with_suffix(".parquet")).exists()]
        self._merge(SAMPLES_FILE, SAMPLES, _table_batches(samples, SAMPLES))
        examples = sorted(self._journal.glob("examples-*.parquet"))
        self._merge(EXAMPLES_FILE, EXAMPLES, _table_batches(examples, EXAMPLES))
        self.close()

    def close(self) -> None:
        """Release the folder for other processes."""
        self._lock.release()

    def __enter__(self) -> RunStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write_run(self, run: Mapping[str, Any]) -> None:
        write_whole(self.folder / RUN, json.dumps(run, indent=1, default=str).encode())

    def _merge(self, name: str, schema: pa.Schema, batches: Iterator[pa.Table]) -> None:
        def write(file: IO[bytes]) -> None:
            with pq.ParquetWriter(file, schema, compression="zstd") as writer:
                for table in batches:
                    writer.write_table(table, row_group_size=_SAMPLES_IN_GROUP)

        write_whole(self.folder / name, write)


def write_whole(path: Path, content: bytes | Callable[[IO[bytes]], object]) -> None:
    """Write a file beside its name and rename it, so that it is whole or not there.

    ``content`` is bytes, or a function that writes them. Raises ReportError.
    """
    draft = path.with_name(f".{path.name}.draft")
    with _explained(path.parent):
        try:
            with draft.open("wb") as file:
                if isinstance(content, bytes):
                    file.write(content)
                else:
                    content(file)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)


def read_run(folder: Path) -> dict[str, Any]:
    """The content of ``run.json``. Raises ReportError where there is none, or a damaged one."""
    path = folder / RUN
    try:
        run = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ReportError(
            f"{folder} is not a run's folder: it has no {RUN}; name what `assay run --out` wrote"
        ) from error
    except (OSError, ValueError) as error:
        raise ReportError(f"{path} cannot be read: {error}") from error
    if not isinstance(run, dict):
        raise ReportError(f"{path} is damaged: it holds no JSON object")
    return run


def _locked(folder: Path) -> FileLock:
    lock = FileLock(folder / ".lock")
    try:
        with _explained(folder):
            lock.acquire(timeout=0)
    except Timeout as error:
        raise ReportError(f"{folder} is being written by another process: wait for it") from error
    return lock


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turn what the file system says into one line with the way out."""
    try:
        yield
    except OSError as error:
        if isinstance(error, Timeout):
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ReportError(
                f"no space left for {folder}: the finished cells are kept; make room, then go "
                "on with --resume"
            ) from error
        raise ReportError(f"cannot write to {folder}: {error.strerror or error}") from error


def _read_row(path: Path) -> dict[str, Any]:
    try:
        return validate_row(json.loads(path.read_text()))
    except ValueError as error:
        raise ReportError(
            f"{path} is damaged ({error}): remove it, and --resume measures that cell again"
        ) from error


def _write_table(table: pa.Table, file: IO[bytes]) -> None:
    pq.write_table(table, file, compression="zstd", row_group_size=_SAMPLES_IN_GROUP)


def _row_batches(paths: list[Path]) -> Iterator[pa.Table]:
    for start in range(0, len(paths), _ROWS_IN_GROUP):
        rows = [_read_row(path) for path in paths[start : start + _ROWS_IN_GROUP]]
        yield pa.Table.from_pylist(rows, schema=arrow_schema())


def _table_batches(paths: list[Path], schema: pa.Schema) -> Iterator[pa.Table]:
    """The rows of many files in turn, gathered into tables of a row group's size. A column that
    an older version did not write is null."""
    waiting: list[pa.Table] = []
    rows = 0
    for path in paths:
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(_SAMPLES_IN_GROUP):
                    waiting.append(pa.Table.from_batches([batch]))
                    rows += batch.num_rows
                    if rows >= _SAMPLES_IN_GROUP:
                        yield _joined(waiting, schema)
                        waiting, rows = [], 0
        except pa.ArrowException as error:
            raise ReportError(
                f"{path} is damaged ({error}): remove it and the .json beside it, and --resume "
                "measures that cell again"
            ) from error
    if waiting:
        yield _joined(waiting, schema)


def _joined(tables: list[pa.Table], schema: pa.Schema) -> pa.Table:
    whole = [schema.empty_table(), *tables]
    return pa.concat_tables(whole, promote_options="default").unify_dictionaries()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
