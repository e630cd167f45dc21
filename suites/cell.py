"""A cell, and how a suite file's matrix becomes cells."""

from __future__ import annotations

import fnmatch
import hashlib
import itertools
import json
from dataclasses import asdict, dataclass

from reports.columns import AXES
from runtimes.registry import ENTRIES
from suites.suite_file import AVAILABLE, Pattern, SuiteFile


@dataclass(frozen=True)
class Cell:
    """One combination to be measured."""

    model: str
    recipe: str
    runtime: str
    attention: str
    workload: str
    device: str

    @property
    def id(self) -> str:
        """12 hexadecimal digits of a hash over the axes: safe as a file name whatever they hold."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def label(self) -> str:
        return "/".join(getattr(self, axis) for axis in AXES)


def expand(file: SuiteFile, available: tuple[str, ...], cuda: bool) -> tuple[Cell, ...]:
    """The matrix's product without what is excluded, then what is included; each cell once."""
    matrix = file.matrix
    runtimes = list(available) if matrix.runtime == [AVAILABLE] else matrix.runtime
    combinations = itertools.product(
        matrix.model, matrix.recipe, runtimes, matrix.attention, matrix.workload, matrix.device
    )
    cells = [Cell(*axes) for axes in combinations]
    cells = [_on_device(cell, cuda) for cell in cells]
    cells = [cell for cell in cells if not any(_matches(cell, p) for p in file.exclude)]
    cells += [_on_device(Cell(**extra.model_dump()), cuda) for extra in file.include]
    return tuple(dict.fromkeys(cells))


def _matches(cell: Cell, pattern: Pattern) -> bool:
    return all(fnmatch.fnmatchcase(getattr(cell, a), getattr(pattern, a)) for a in AXES)


def _on_device(cell: Cell, cuda: bool) -> Cell:
    """``auto`` becomes the runtime's own device; where it has either, CUDA if there is one."""
    if cell.device != "auto":
        return cell
    home = ENTRIES[cell.runtime].device
    device = "cuda:0" if home == "cuda" or (home == "any" and cuda) else "cpu"
    return Cell(**{**asdict(cell), "device": device})
