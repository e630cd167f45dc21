"""A finished run, read back: the three tables as DataFrames, and what the run says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from reports.errors import ReportError
from reports.schema import SCHEMA_VERSION
from reports.store import CELLS, EXAMPLES_FILE, SAMPLES_FILE, read_run

_NULLABLE = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
"""Integers and booleans with nulls keep their type instead of turning into floats."""


@dataclass(frozen=True)
class Results:
    """One run. The tables are read when first asked for; ``samples`` may be large."""

    folder: Path
    run: dict[str, Any]
    """``run.json``: environment, suite text, command."""

    @cached_property
    def cells(self) -> pd.DataFrame:
        """A row a cell, in the order in which they ran."""
        return _frame(self.folder / CELLS)

    @cached_property
    def samples(self) -> pd.DataFrame:
        """Every timed call of every cell. ``samples_of`` reads one cell's alone."""
        return _frame(self.folder / SAMPLES_FILE)

    @cached_property
    def examples(self) -> pd.DataFrame:
        """The per-example results of every build that has a task."""
        return _frame(self.folder / EXAMPLES_FILE)

    def samples_of(self, cell_id: str) -> pd.DataFrame:
        """One cell's samples, without reading the rest into memory."""
        return _frame(self.folder / SAMPLES_FILE, [("cell_id", "==", cell_id)])

    def sketch(self, per_cell: int = 1000) -> dict[str, np.ndarray]:
        """Between ``per_cell`` and twice as many of each cell's latencies in ms, evenly thinned.

        Warm-up is left out. The file is read once, a row group at a time, and every other value
        is dropped whenever there are too many, so that memory stays bounded.
        """
        kept: dict[str, np.ndarray] = {}
        strides: dict[str, int] = {}
        file = _reading(self.folder / SAMPLES_FILE, pq.ParquetFile)
        columns = ["cell_id", "index", "latency_ns", "phase"]
        for group in range(file.num_row_groups):
            # One thread: more of them read ahead, and hold more than a row group.
            table = file.read_row_group(group, columns=columns, use_threads=False)
            table = table.filter(pc.field("phase") == "sample")
            for cell_id in pc.unique(table.column("cell_id")).to_pylist():
                mine = table.filter(pc.field("cell_id") == cell_id)
                stride = strides.setdefault(cell_id, 1)
                values = np.stack([mine.column(name).to_numpy() for name in columns[1:3]])
                values = values[:, values[0] % stride == 0]
                values = np.hstack([kept.get(cell_id, values[:, :0]), values])
                while values.shape[1] > 2 * per_cell:
                    stride *= 2
                    values = values[:, values[0] % stride == 0]
                kept[cell_id], strides[cell_id] = values, stride
        return {cell_id: latencies / 1e6 for cell_id, (_, latencies) in kept.items()}

    @property
    def schema_version(self) -> int:
        """That of the tables, which an older Assay may have written."""
        return _schema_version(self.folder / CELLS)

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """``cells`` as plain dictionaries, None where there is nothing."""
        return _table(self.folder / CELLS).to_pylist()


def load(folder: Path | str) -> Results:
    """The results in ``folder``.

    Raises ReportError for a folder without a run, a run that was not finished, a truncated file
    and one written by a newer Assay.
    """
    folder = Path(folder)
    run = read_run(folder)
    for name in (CELLS, SAMPLES_FILE, EXAMPLES_FILE):
        _check(folder / name)
    return Results(folder, run)


def _check(path: Path) -> None:
    """Read a file's footer only: cheap, and enough to notice that it was cut off."""
    if not path.is_file():
        raise ReportError(
            f"{path} does not exist: the run was not finished; `assay report {path.parent}` "
            "writes it from the journal, `--resume` goes on with the run"
        )
    version = _schema_version(path)
    if version > SCHEMA_VERSION:
        raise ReportError(
            f"{path} has schema version {version}, and this Assay reads up to {SCHEMA_VERSION}: "
            "install a newer Assay"
        )


def _schema_version(path: Path) -> int:
    metadata = _reading(path, pq.read_schema).metadata or {}
    return int(metadata.get(b"assay_schema_version", b"0"))


def _frame(path: Path, filters: list[tuple[str, str, Any]] | None = None) -> pd.DataFrame:
    return _table(path, filters).to_pandas(types_mapper=_NULLABLE.get)


def _table(path: Path, filters: list[tuple[str, str, Any]] | None = None) -> pa.Table:
    return _reading(path, lambda p: pq.read_table(p, filters=filters))


def _reading(path: Path, read: Any) -> Any:
    try:
        return read(path)
    except (OSError, pa.ArrowException) as error:
        raise ReportError(
            f"{path} is damaged or no Parquet file ({error}): remove it, and "
            f"`assay report {path.parent}` writes it again from the journal"
        ) from error
