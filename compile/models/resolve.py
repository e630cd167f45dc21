"""What a suite or a command line means by a model, decided without importing torch."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from compile.errors import InputError
from compile.models import zoo
from compile.models.config import TASKS, TransformerConfig

HUB_PREFIX = "hub:"
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


@dataclass(frozen=True)
class Reference:
    """A model that was asked for and, as far as that is cheap to know, exists."""

    text: str
    """As the user wrote it."""
    family: Literal["zoo", "hub", "user", "onnx"]
    task: str | None
    """The task by its hub name; None where only the model itself can tell, or nobody can."""
    path: Path | None = None
    """The hub model's local folder, the user's file or the ONNX file."""
    factory: str | None = None
    """The function in the user's file."""
    config: TransformerConfig | None = None
    """The zoo's configuration, its head and classes settled."""
    trained: bool = False
    """A zoo model that is of no use before it is trained."""


def resolve(
    reference: str, *, base: Path, task: str | None = None, classes: int | None = None
) -> Reference:
    """Decide what ``reference`` names, relative paths being relative to ``base``:

    - a name of the zoo (``encoder-small``);
    - ``path/to/file.py:factory``, a function of the user's that returns a module;
    - ``path/to/model.onnx``;
    - a folder with a transformers model;
    - a model of the hub: ``owner/name``, or ``hub:name`` where it has no owner.

    ``task`` is a hub name (``text-classification``) or a head's (``classification``), for models
    that leave a choice. ``classes`` is what a zoo classifier is to tell apart. Raises InputError
    for what does not exist, with near matches; whether a hub model exists is not asked here.
    """
    task = TASKS.get(task, task) if task else None
    if reference in zoo.ZOO:
        config = zoo.config(reference, task=task, classes=classes)
        trained = zoo.ZOO[reference].trained
        return Reference(reference, "zoo", config.task, config=config, trained=trained)
    if reference.startswith(HUB_PREFIX):
        return _hub_name(reference, reference.removeprefix(HUB_PREFIX), task)
    file, colon, factory = reference.rpartition(":")
    if colon and file.endswith(".py"):
        return _user(reference, _expand(base, file), factory, task)
    path = _expand(base, reference)
    if reference.endswith(".py"):
        raise InputError(f"model {reference!r}: name the function too, as {reference}:factory")
    if reference.endswith(".onnx"):
        if not path.is_file():
            raise InputError(f"model {reference!r}: there is no file {path}")
        return Reference(reference, "onnx", task, path=path)
    if path.is_dir() and reference:
        if not (path / "config.json").is_file():
            raise InputError(
                f"model {reference!r}: folder {path} has no config.json, so it is no transformers "
                "model"
            )
        return Reference(reference, "hub", task, path=path)
    if reference.startswith((".", "/", "~")):
        raise InputError(f"model {reference!r}: there is no folder {path}")
    if "/" in reference:
        return _hub_name(reference, reference, task)
    raise InputError(f"unknown model {reference!r}; {_suggestion(reference)}")


def _user(reference: str, path: Path, factory: str, task: str | None) -> Reference:
    if not path.is_file():
        raise InputError(f"model {reference!r}: there is no file {path}")
    if not factory.isidentifier():
        raise InputError(f"model {reference!r}: {factory!r} is not the name of a function")
    return Reference(reference, "user", task, path=path, factory=factory)


def _hub_name(reference: str, name: str, task: str | None) -> Reference:
    if not _HUB_NAME.fullmatch(name):
        raise InputError(
            f"model {reference!r} is neither a file, a folder nor a hub name (owner/name)"
        )
    return Reference(reference, "hub", task)


def _expand(base: Path, path: str) -> Path:
    return (base / Path(path).expanduser()).resolve()


def _suggestion(reference: str) -> str:
    near = difflib.get_close_matches(reference, zoo.ZOO, n=3)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return (
        f"the zoo has {', '.join(zoo.ZOO)}; other models are a folder, path/to/file.py:factory, "
        "path/to/model.onnx, owner/name or hub:name"
    )
