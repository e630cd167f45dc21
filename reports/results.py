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
        """About ``per_cell`` of each cell's latencies in ms, evenly thinned, warm-up left out.

        Reads the file once, a row group at a time, so that memory stays bounded.
        """
        kept: dict[str, list[np.ndarray]] = {}
        strides = {
            row["cell_id"]: max(1, (row.get("samples") or 0) // per_cell) for row in self.rows
        }
        file = _reading(self.folder / SAMPLES_FILE, pq.ParquetFile)
        for batch in file.iter_batches(65_536, columns=["cell_id", "index", "latency_ns", "phase"]):
            batch = batch.filter(pc.field("phase") == "sample")
            for cell_id in pc.unique(batch.column("cell_id")).to_pylist():
                mine = batch.filter(pc.field("cell_id") == cell_id)
                places = mine.column("index").to_numpy()
                latencies = mine.column("latency_ns").to_numpy() / 1e6
                stride = strides.get(cell_id, 1)
                kept.setdefault(cell_id, []).append(latencies[places % stride == 0])
        return {cell_id: np.concatenate(parts) for cell_id, parts in kept.items()}

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
    metadata = _reading(path, pq.read_schema).metadata or {}
    version = int(metadata.get(b"assay_schema_version", b"0"))
    if version > SCHEMA_VERSION:
        raise ReportError(
            f"{path} has schema version {version}, and this Assay reads up to {SCHEMA_VERSION}: "
            "install a newer Assay"
        )


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
