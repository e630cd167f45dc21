"""A suite: a TOML file that expands to cells, like a CI matrix.

Everything in it is validated before anything is built.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from compile.errors import InputError
from quantize.recipe import Recipe, load_recipe, recipe_from_table
from runtimes.registry import ENTRIES
from suites.cell import Cell, expand
from suites.measure.plan import MeasurePlan
from suites.reading import read_suite, unknown_name
from suites.suite_file import ModelEntry, RuntimeEntry, SuiteFile, TaskEntry

FP32 = "fp32"
"""The recipe without passes: what every other build is compared with."""


@dataclass(frozen=True)
class Suite:
    """A validated suite, its recipes loaded, its cells expanded."""

    name: str
    path: Path
    text: str
    file: SuiteFile
    recipes: dict[str, Recipe]
    plan: MeasurePlan
    cells: tuple[Cell, ...]

    @property
    def folder(self) -> Path:
        """Where relative paths in the suite start."""
        return self.path.parent

    def model(self, name: str) -> ModelEntry:
        return self.file.models.get(name) or ModelEntry(source=name)

    def task(self, model: str) -> str | TaskEntry | None:
        """The model's task: the user's own table, or an embedded one's name."""
        name = self.model(model).task
        return None if name is None else self.file.tasks.get(name, name)

    @property
    def threads(self) -> int:
        """Threads of a session whose runtime says nothing else."""
        return self.file.threads or len(os.sched_getaffinity(0))

    def runtime(self, name: str) -> RuntimeEntry:
        return self.file.runtimes.get(name) or RuntimeEntry()

    def require_calls(self, cells: Iterable[Cell]) -> None:
        """Raise InputError for cells under load: their time holds what requests waited, and a
        gate's verdict, which is on the calls of pairs of processes, would not see it."""
        for cell in cells:
            if self.file.workloads[cell.workload].load is not None:
                raise InputError(
                    f"{self.path}: workloads.{cell.workload}.load: a gate judges calls made one "
                    "after the other and no load workload; take it out of the gated suite "
                    "(matrix.workload, or [[exclude]])"
                )

    def only(self, glob: str) -> tuple[Cell, ...]:
        """Cells whose label, or one of whose axes, matches the glob."""
        chosen = tuple(
            cell
            for cell in self.cells
            if any(fnmatch.fnmatchcase(t, glob) for t in (cell.label, *asdict(cell).values()))
        )
        if not chosen:
            raise InputError(
                f"--only {glob!r} matches none of the {len(self.cells)} cells of {self.path.name}; "
                f"a cell reads like {self.cells[0].label}"
            )
        return chosen


def load_suite(reference: str, available: Iterable[str], cuda: bool) -> Suite:
    """Read and validate a suite, and expand it for this machine.

    ``available`` are the runtimes that this machine has (for ``runtime = ["available"]``), and
    ``cuda`` says whether ``device = "auto"`` means ``cuda:0`` for a runtime that could use either.
    """
    file, path, text = read_suite(reference)
    recipes = _recipes(file, path)
    cells = expand(file, tuple(available), cuda)
    if not cells:
        raise InputError(f"{path}: matrix: no cell is left after exclude")
    for cell in cells:
        home = ENTRIES[cell.runtime].device
        if home != "any" and not cell.device.startswith(home):
            raise InputError(
                f"{path}: device: {cell.runtime} runs on {home} only, not on {cell.device}; "
                'use device = ["auto"], or exclude the pair'
            )
    return Suite(path.stem, path.resolve(), text, file, recipes, _plan(file, path), cells)


def _plan(file: SuiteFile, path: Path) -> MeasurePlan:
    allowed = [setting.name for setting in fields(MeasurePlan)]
    for key in file.measure:
        if key not in allowed:
            raise InputError(f"{path}: measure.{key}: {unknown_name(key, allowed)}")
    try:
        return MeasurePlan(**file.measure)
    except InputError as error:
        raise InputError(f"{path}: measure: {error}") from error


def _recipes(file: SuiteFile, path: Path) -> dict[str, Recipe]:
    """Every recipe that a cell may name: the suite's own tables first, then shipped or a file."""
    names = dict.fromkeys([*file.matrix.recipe, *(extra.recipe for extra in file.include)])
    if FP32 in file.recipes:
        raise InputError(f"{path}: recipes.{FP32}: that name is the reference's; choose another")
    recipes = {}
    for name in names:
        if name in file.recipes:
            where = f"{path}: recipes.{name}"
            recipes[name] = recipe_from_table(name, file.recipes[name], where)
        else:
            try:
                recipes[name] = load_recipe(name, path.parent)
            except InputError as error:
                raise InputError(f"{path}: matrix.recipe: {error}") from error
    if unused := sorted(set(file.recipes) - set(names)):
        raise InputError(f"{path}: recipes.{unused[0]}: no cell uses it; add it to matrix.recipe")
    return recipes
