"""A suite file: TOML that expands to cells, like a CI matrix.

Everything in it is validated before anything is built. A mistake is one ``InputError`` that names
the file, the key, what was found there and what is allowed.
"""

from __future__ import annotations

import difflib
import fnmatch
import hashlib
import itertools
import json
import os
import tomllib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from compile.errors import InputError
from quantize.recipe import Recipe, load_recipe, recipe_from_table
from runtimes.registry import ENTRIES
from suites.measure.plan import MeasurePlan

SHIPPED = Path(__file__).parent
AXES = ("model", "recipe", "runtime", "attention", "workload", "device")
FP32 = "fp32"
"""The recipe without passes: what every other build is compared with."""
AVAILABLE = "available"
"""As the only entry of ``matrix.runtime``: every runtime that this machine has."""

Name = Annotated[str, Field(min_length=1, max_length=200)]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|cuda:\d+)$")]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelEntry(_Table):
    """``[models.NAME]``. A model without an entry is its own source: ``bert-base``, ``x.onnx``."""

    source: Name
    """A zoo name, a transformers folder or hub name, ``file.py:factory``, or an ONNX file."""
    task: Name | None = None
    """A shipped task or one of ``[tasks]``. Without it the row has fidelity instead of accuracy."""
    classes: Annotated[int, Field(ge=2)] | None = None
    """Classes of a zoo classifier that has no task to say how many."""
    train: bool = True
    """Whether a zoo model that is made to be trained here is trained on its task first."""


class TaskEntry(_Table):
    """``[tasks.NAME]``: the user's own data."""

    kind: Literal["classification", "masked-lm", "causal-lm"]
    data: Name
    """A JSONL or Parquet file, relative to the suite file."""
    text: Name = "text"
    label: Name = "label"
    tokenizer: Name | None = None
    max_length: Annotated[int, Field(ge=8, le=8192)] = 128


class Workload(_Table):
    """``[workloads.NAME]``: what is asked of a session, and how much of it at once."""

    kind: Literal["forward", "prefill", "decode"] = "forward"
    batch: Annotated[int, Field(ge=1)] = 1
    sequence: Annotated[int, Field(ge=1)] | None = None
    """Tokens fed in one call. 1 for decode; left out for models without a sequence axis."""
    past: Annotated[int, Field(ge=1)] | None = None
    """Decode only: tokens already in the KV cache."""

    @model_validator(mode="after")
    def _shape_fits_kind(self) -> Workload:
        if self.kind == "decode" and (self.past is None or self.sequence not in (None, 1)):
            raise ValueError("decode feeds one token: give past (cached tokens) and no sequence")
        if self.kind != "decode" and self.past is not None:
            raise ValueError(f"past belongs to decode; {self.kind} has none")
        if self.kind == "prefill" and self.sequence is None:
            raise ValueError("prefill needs a sequence (the prompt's length)")
        return self

    @property
    def sizes(self) -> dict[str, int]:
        """Axis sizes for ``Signature.feeds``."""
        if self.kind == "decode":
            return {"batch": self.batch, "sequence": 1, "past": self.past or 0}
        sizes = {"batch": self.batch, "past": 0}
        return sizes if self.sequence is None else {**sizes, "sequence": self.sequence}


class RuntimeEntry(BaseModel):
    """``[runtimes.NAME]``. Keys beside these are options of that runtime, checked by it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    python: Name | None = None
    """Interpreter of the environment in which this runtime lives."""
    timeout: Annotated[float, Field(gt=0)] = 300.0
    """Seconds that opening, or one call, may take."""
    memory_limit_gib: Annotated[float, Field(gt=0)] | None = None


class Matrix(_Table):
    """``[matrix]``: the axes whose product makes the cells."""

    model: Annotated[list[Name], Field(min_length=1)]
    recipe: Annotated[list[Name], Field(min_length=1)] = ["fp32"]
    runtime: Annotated[list[Name], Field(min_length=1)] = [AVAILABLE]
    attention: Annotated[list[Name], Field(min_length=1)] = ["default"]
    workload: Annotated[list[Name], Field(min_length=1)]
    device: Annotated[list[Device], Field(min_length=1)] = ["auto"]


class Pattern(_Table):
    """``[[exclude]]``: cells whose every named axis matches the glob are left out."""

    model: str = "*"
    recipe: str = "*"
    runtime: str = "*"
    attention: str = "*"
    workload: str = "*"
    device: str = "*"

    def matches(self, cell: Cell) -> bool:
        return all(fnmatch.fnmatchcase(getattr(cell, a), getattr(self, a)) for a in AXES)


class Extra(_Table):
    """``[[include]]``: one more cell beside the matrix."""

    model: Name
    recipe: Name = "fp32"
    runtime: Name
    attention: Name = "default"
    workload: Name
    device: Device = "auto"


class Ship(_Table):
    """``[ship]``: what a build may lose and still be recommended."""

    max_drop: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Largest allowed drop of the task's metric, as a fraction (0.01 = 1 point)."""


class SuiteFile(_Table):
    """The whole file."""

    description: str = ""
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Intra-op threads of every session; by default all cores that the process may use."""
    seed: Annotated[int, Field(ge=0)] = 0
    reference: Name | None = None
    """Runtime whose outputs are the truth; torch-eager, or onnxruntime-cpu for an ONNX file."""
    matrix: Matrix
    models: dict[Name, ModelEntry] = {}
    tasks: dict[Name, TaskEntry] = {}
    recipes: dict[Name, dict[str, Any]] = {}
    runtimes: dict[Name, RuntimeEntry] = {}
    workloads: Annotated[dict[Name, Workload], Field(min_length=1)]
    measure: dict[str, Any] = {}
    ship: Ship = Ship()
    exclude: list[Pattern] = []
    include: list[Extra] = []


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


def shipped_suites() -> dict[str, Path]:
    """Suites that come with Assay, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.toml"))}


def read_suite(reference: str) -> tuple[SuiteFile, Path, str]:
    """A suite by shipped name or path: its tables, where it lies, and its text."""
    path = _find(reference)
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error})") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not valid TOML: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        file = SuiteFile.model_validate(data)
    except ValidationError as error:
        raise InputError(_explain(error, path)) from error
    _check_names(file, path)
    return file, path, text


def load_suite(reference: str, available: Iterable[str], cuda: bool) -> Suite:
    """Read and validate a suite, and expand it for this machine.

    ``available`` are the runtimes that this machine has (for ``runtime = ["available"]``), and
    ``cuda`` says whether ``device = "auto"`` means ``cuda:0`` for a runtime that could use either.
    """
    file, path, text = read_suite(reference)
    recipes = _recipes(file, path)
    cells = _expand(file, tuple(available), cuda)
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
            raise InputError(f"{path}: measure.{key}: {_unknown(key, allowed)}")
    try:
        return MeasurePlan(**file.measure)
    except InputError as error:
        raise InputError(f"{path}: measure: {error}") from error


def _find(reference: str) -> Path:
    shipped = shipped_suites()
    if reference in shipped:
        return shipped[reference]
    path = Path(reference)
    if path.is_file():
        return path
    near = difflib.get_close_matches(reference, shipped, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise InputError(
        f"no suite {reference!r}: neither a file nor one of {', '.join(shipped)}{hint}"
    )


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
            recipes[name] = load_recipe(name, path.parent)
    if unused := sorted(set(file.recipes) - set(names)):
        raise InputError(f"{path}: recipes.{unused[0]}: no cell uses it; add it to matrix.recipe")
    return recipes


def _check_names(file: SuiteFile, path: Path) -> None:
    """Cross-references between tables, which no single table's schema can see."""
    for key, names, allowed in (
        ("matrix.workload", file.matrix.workload, file.workloads),
        ("include.workload", [extra.workload for extra in file.include], file.workloads),
        ("matrix.runtime", file.matrix.runtime, [*ENTRIES, AVAILABLE]),
        ("include.runtime", [extra.runtime for extra in file.include], ENTRIES),
        ("runtimes", file.runtimes, ENTRIES),
        (
            "models",
            file.models,
            [*file.matrix.model, *(extra.model for extra in file.include)],
        ),
    ):
        for name in names:
            if name not in allowed:
                raise InputError(f"{path}: {key}: {_unknown(name, allowed)}")
    if AVAILABLE in file.matrix.runtime and len(file.matrix.runtime) > 1:
        raise InputError(f"{path}: matrix.runtime: {AVAILABLE!r} stands alone")


def _unknown(name: str, allowed: Iterable[str]) -> str:
    allowed = list(allowed)
    near = difflib.get_close_matches(name, allowed, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {name!r}, allowed are {', '.join(allowed)}{hint}"


def _expand(file: SuiteFile, available: tuple[str, ...], cuda: bool) -> tuple[Cell, ...]:
    matrix = file.matrix
    runtimes = list(available) if matrix.runtime == [AVAILABLE] else matrix.runtime
    combinations = itertools.product(
        matrix.model, matrix.recipe, runtimes, matrix.attention, matrix.workload, matrix.device
    )
    cells = [Cell(*axes) for axes in combinations]
    cells = [_on_device(cell, cuda) for cell in cells]
    cells = [cell for cell in cells if not any(p.matches(cell) for p in file.exclude)]
    cells += [_on_device(Cell(**extra.model_dump()), cuda) for extra in file.include]
    return tuple(dict.fromkeys(cells))


def _on_device(cell: Cell, cuda: bool) -> Cell:
    """``auto`` becomes the runtime's own device; where it has either, CUDA if there is one."""
    if cell.device != "auto":
        return cell
    home = ENTRIES[cell.runtime].device
    device = "cuda:0" if home == "cuda" or (home == "any" and cuda) else "cpu"
    return Cell(**{**asdict(cell), "device": device})


def _explain(error: ValidationError, path: Path) -> str:
    """The first mistake in one line: file, key, what is wrong, what was found."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "the file"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        allowed = _keys_at(first["loc"][:-1])
        return f"{path}: {key}: {_unknown(str(first['loc'][-1]), allowed)}"
    found = f" (found {first['input']!r:.80})" if first["type"] != "missing" else ""
    return f"{path}: {key}: {message[0].lower()}{message[1:]}{found}"


def _keys_at(location: tuple[Any, ...]) -> list[str]:
    """Keys that are allowed in the table at a place of the suite file."""
    tables: dict[str, type[BaseModel]] = {
        "matrix": Matrix,
        "models": ModelEntry,
        "tasks": TaskEntry,
        "workloads": Workload,
        "ship": Ship,
        "exclude": Pattern,
        "include": Extra,
    }
    table = tables.get(str(location[0])) if location else SuiteFile
    return list(table.model_fields) if table else []
