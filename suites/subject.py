"""A model of a suite, found, with its task loaded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from compile.errors import InputError
from compile.models.hub_files import model_tokenizer
from compile.models.resolve import Reference, resolve
from runtimes import registry
from suites.cell import Cell
from suites.suite import Suite
from suites.suite_file import ModelEntry
from suites.tasks.registry import load_task
from suites.tasks.task import Task

_KINDS = {"onnx": "ONNX file", "torch": "torch model"}


@dataclass(frozen=True)
class Subject:
    """What a run builds and measures under one name."""

    name: str
    entry: ModelEntry
    found: Reference
    task: Task | None


def find_subject(suite: Suite, name: str, cells: Iterable[Cell]) -> Subject:
    """A model of the suite with its task, checked as far as that is possible without building
    anything. Raises InputError naming the file and the key."""
    entry = suite.model(name)
    where = f"{suite.path}: models.{name}"
    asked = suite.task(name)
    try:
        tokenizer = model_tokenizer(entry.source, suite.folder) if asked else None
    except InputError as error:
        raise InputError(f"{where}.source: {error}") from error
    try:
        task = load_task(asked, suite.folder, tokenizer) if asked else None
    except InputError as error:
        key = f"{where}.task" if isinstance(asked, str) else f"{suite.path}: tasks.{entry.task}"
        raise InputError(f"{key}: {error}") from error
    if task is not None and entry.classes is not None:
        raise InputError(f"{where}.classes: task {entry.task!r} says how many; leave it out")
    try:
        found = resolve(
            entry.source,
            base=suite.folder,
            task=task.kind if task else None,
            classes=len(task.classes) if task else entry.classes,
        )
    except InputError as error:
        raise InputError(f"{where}.source: {error}") from error
    _check_reference(suite, name, found)
    if found.trained and entry.train and task is None:
        raise InputError(
            f"{where}: {entry.source} is trained on a task: give it one (task = ...), or "
            "train = false for random weights"
        )
    for name_of_recipe in dict.fromkeys(cell.recipe for cell in cells if cell.model == name):
        recipe = suite.recipes[name_of_recipe]
        if task is not None or not recipe.needs_data:
            continue
        if recipe.trained_part().needs_data:
            raise InputError(
                f"{where}: recipe {recipe.name!r} trains on data: give the model a task, or "
                "exclude the pair"
            )
        if entry.calibration is None:
            raise InputError(
                f"{where}: recipe {recipe.name!r} calibrates on data: give the model a task, or "
                'calibration = "synthetic" if its speed and size are all you ask, or exclude the '
                "pair"
            )
    if task is not None and entry.calibration is not None:
        raise InputError(f"{where}.calibration: task {entry.task!r} has data to calibrate on")
    for workload in dict.fromkeys(cell.workload for cell in cells if cell.model == name):
        sizes = suite.file.workloads[workload].sizes
        total = sizes.get("sequence", 0) + sizes.get("past", 0)
        if found.config and total > found.config.max_sequence:
            raise InputError(
                f"{suite.path}: workloads.{workload}: {total} tokens are more than the maximum of "
                f"{found.config.max_sequence} of model {name!r}"
            )
    return Subject(name, entry, found, task)


def _check_reference(suite: Suite, name: str, found: Reference) -> None:
    """The truth is the model as it came, which the reference's runtime has to open."""
    asked = suite.file.reference
    kind = "onnx" if found.family == "onnx" else "torch"
    if asked is None or registry.entry(asked).accepts(kind):
        return
    entries = map(registry.entry, registry.names())
    # The truth is computed on the processor, wherever builds of it are measured.
    able = [entry.name for entry in entries if entry.accepts(kind) and entry.device != "cuda"]
    raise InputError(
        f"{suite.path}: reference: {asked} opens no {_KINDS[kind]}, and model {name!r} is one; "
        f"leave the key out, or choose one of {', '.join(able)}"
    )
