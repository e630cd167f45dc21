"""From a task's name, or the user's table, to the task with its data."""

from __future__ import annotations

import difflib
import functools
import hashlib
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from compile.errors import InputError
from compile.models.hub_files import TOKENIZER, TOKENIZER_CONFIG
from suites.suite_file import TaskEntry
from suites.tasks.classification import Classification
from suites.tasks.corpus import standard_library
from suites.tasks.language import CausalLM, MaskedLM
from suites.tasks.prepare import Recipe, prepare_apart
from suites.tasks.prepared import USER_VERSION, load_prepared
from suites.tasks.task import Kind, Task

TASKS: dict[Kind, type[Task]] = {
    "classification": Classification,
    "masked-lm": MaskedLM,
    "causal-lm": CausalLM,
}
"""The embedded tasks by name, which is also what a user's own data is used for."""

SETTINGS: dict[Kind, dict[str, Any]] = {
    "classification": {"steps": 240, "batch_size": 32, "learning_rate": 5e-4},
    "masked-lm": {"steps": 800, "batch_size": 4, "learning_rate": 6e-4},
    "causal-lm": {"steps": 320, "batch_size": 8, "learning_rate": 1.5e-3},
}
"""What suits the small models of the zoo."""


EMBEDDED = "embedded"
"""As a task's tokenizer: the one that the embedded data have."""


def load_task(
    task: str | TaskEntry, base: Path | None = None, tokenizer: Path | None = None
) -> Task:
    """An embedded task by its name, or the user's data that a ``[tasks.NAME]`` table describes,
    relative paths being relative to ``base``.

    ``tokenizer`` is the file that came with the model (``compile.models.hub_files``), for a table
    that names none. With neither the user's data get the embedded tokenizer.

    The first call prepares the data, which takes some seconds; later ones find it in the cache.
    Raises InputError for an unknown name or unusable data, Unsupported where this Python does
    not ship its library as files.
    """
    if isinstance(task, str):
        return _embedded(task)
    return _users(task, base or Path(), tokenizer)


@functools.cache
def _embedded(name: str) -> Task:
    # Kept, because to know the data the whole library is read and hashed, half a second a time.
    for kind, task in TASKS.items():
        if kind == name:
            material = {"kind": kind, "corpus": standard_library().fingerprint}
            data = load_prepared(material, partial(prepare_apart, Recipe(kind)))
            return task(name, data, SETTINGS[kind])
    near = difflib.get_close_matches(name, TASKS, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise InputError(f"unknown task {name!r}: there are {', '.join(sorted(TASKS))}{hint}")


def _users(entry: TaskEntry, base: Path, tokenizer: Path | None) -> Task:
    path = base / Path(entry.data).expanduser()
    if entry.tokenizer:
        asked = base / Path(entry.tokenizer).expanduser()
        tokenizer = None if entry.tokenizer == EMBEDDED else _tokenizer_file(asked)
    recipe = Recipe(
        kind=entry.kind,
        data=str(path),
        columns=(entry.text, entry.label) if entry.kind == "classification" else (entry.text,),
        tokenizer=str(tokenizer) if tokenizer else None,
        max_length=entry.max_length,
    )
    # Where the files lie does not matter, what they hold does.
    material = asdict(recipe) | {
        "user_version": USER_VERSION,
        "data": _file_hash(path),
        "tokenizer": _file_hash(tokenizer) if tokenizer else None,
        "tokenizer_config": _pad_source(tokenizer) if tokenizer else None,
        "corpus": None if tokenizer else standard_library().fingerprint,
    }
    data = load_prepared(material, partial(prepare_apart, recipe))
    task = TASKS[entry.kind](path.name, data, SETTINGS[entry.kind])
    if isinstance(task, Classification):
        task = replace(task, listed=entry.labels)
    return replace(task, models_tokens=bool(entry.tokenizer or tokenizer))


def _tokenizer_file(path: Path) -> Path:
    return path / TOKENIZER if path.is_dir() else path


def _pad_source(tokenizer: Path) -> str | None:
    path = tokenizer.with_name(TOKENIZER_CONFIG)
    return _file_hash(path) if path.is_file() else None


def _file_hash(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"{path} does not exist")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
