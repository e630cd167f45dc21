"""The tables of a suite file: every key, its type and its default.

What is wrong inside one table is told here; what two tables must agree on, by ``suites.reading``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from suites.gate.rules import GateTable
from suites.load.table import LoadTable

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
    calibration: Literal["synthetic"] | None = None
    """What a recipe calibrates on where there is no task: inputs made from the signature. Right
    for speed and size, not for accuracy."""
    train: bool = True
    """Whether a zoo model that is made to be trained here is trained on its task first."""


class TaskEntry(_Table):
    """``[tasks.NAME]``: the user's own data."""

    kind: Literal["classification", "masked-lm", "causal-lm"]
    data: Name
    """A JSONL or Parquet file, relative to the suite file."""
    text: Name = "text"
    label: Name = "label"
    labels: Annotated[tuple[Name, ...], Field(min_length=2)] = ()
    """The data's labels in the order of the model's classes, where neither says it."""
    tokenizer: Name | None = None
    """A ``tokenizer.json``, a folder that has one, or ``embedded`` for Assay's own; left out, the
    model's, if it came with one."""
    max_length: Annotated[int, Field(ge=8, le=8192)] = 128

    @model_validator(mode="after")
    def _labels_are_classes(self) -> TaskEntry:
        if self.labels and self.kind != "classification":
            raise ValueError(f"labels belong to classification; {self.kind} has none")
        if len(set(self.labels)) < len(self.labels):
            raise ValueError("labels has one of them twice")
        return self


class Workload(_Table):
    """``[workloads.NAME]``: what is asked of a session, and how much of it at once."""

    kind: Literal["forward", "prefill", "decode"] = "forward"
    batch: Annotated[int, Field(ge=1)] = 1
    sequence: Annotated[int, Field(ge=1)] | None = None
    """Tokens fed in one call. 1 for decode; left out for models without a sequence axis."""
    past: Annotated[int, Field(ge=1)] | None = None
    """Decode only: tokens already in the KV cache."""
    load: LoadTable | None = None
    """Requests that arrive by themselves, instead of calls that are made one after the other."""

    @model_validator(mode="after")
    def _shape_fits_kind(self) -> Workload:
        if self.kind == "decode" and (self.past is None or self.sequence not in (None, 1)):
            raise ValueError("decode feeds one token: give past (cached tokens) and no sequence")
        if self.kind != "decode" and self.past is not None:
            raise ValueError(f"past belongs to decode; {self.kind} has none")
        if self.kind == "prefill" and self.sequence is None:
            raise ValueError("prefill needs a sequence (the prompt's length)")
        if self.load is not None and self.kind != "forward":
            raise ValueError(f'load belongs to kind = "forward"; {self.kind} has none')
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
    """Interpreter of the environment in which this runtime lives: a command, or a path that
    starts where the suite lies."""
    timeout: Annotated[float, Field(gt=0)] = 300.0
    """Seconds that opening, or one call, may take."""
    memory_limit_gib: Annotated[float, Field(gt=0)] | None = None

    def at(self, folder: Path) -> RuntimeEntry:
        """The same, its interpreter's path no longer relative to the suite's folder."""
        if self.python is None or "/" not in self.python:
            return self
        # Not resolved: an environment is found by the place of the link, not of its target.
        path = folder.absolute() / Path(self.python).expanduser()
        return self.model_copy(update={"python": str(path)})


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
    gate: GateTable = GateTable()
    exclude: list[Pattern] = []
    include: list[Extra] = []
