"""Find and read a suite file, and explain what is wrong with it.

A mistake is one ``InputError`` that names the file, the key, what was found there and what is
allowed.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from compile.errors import InputError
from runtimes import registry
from suites.load.table import LoadTable, SloTable
from suites.suite_file import (
    AVAILABLE,
    Extra,
    Matrix,
    ModelEntry,
    Pattern,
    Ship,
    SuiteFile,
    TaskEntry,
    Workload,
)

SHIPPED = Path(__file__).parent


def shipped_suites() -> dict[str, Path]:
    """Suites that come with Assay, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.toml"))}


def read_suite(reference: str) -> tuple[SuiteFile, Path, str]:
    """A suite by shipped name or path: its tables, where it lies, and its text.

    Interpreters are absolute or commands then; other paths are settled where they are used.
    """
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
    runtimes = {name: entry.at(path.parent) for name, entry in file.runtimes.items()}
    return file.model_copy(update={"runtimes": runtimes}), path, text


def _find(reference: str) -> Path:
    shipped = shipped_suites()
    if reference in shipped:
        return shipped[reference]
    path = Path(reference)
    if path.is_file():
        return path
    raise InputError(
        f"no suite {reference!r}: neither a file nor one of {', '.join(shipped)}"
        f"{_nearest(reference, shipped)}"
    )


def _check_names(file: SuiteFile, path: Path) -> None:
    """Cross-references between tables, which no single table's schema can see."""
    runtimes = registry.names()

    def shown(names: Iterable[str]) -> list[str]:
        """Without the runtimes that may be named and that no message offers."""
        return [name for name in names if name in runtimes or name not in registry.ENTRIES]

    for key, names, allowed in (
        ("matrix.workload", file.matrix.workload, file.workloads),
        ("include.workload", [extra.workload for extra in file.include], file.workloads),
        ("reference", shown([file.reference] if file.reference else []), runtimes),
        ("matrix.runtime", shown(file.matrix.runtime), [*runtimes, AVAILABLE]),
        ("include.runtime", shown(extra.runtime for extra in file.include), runtimes),
        ("runtimes", shown(file.runtimes), runtimes),
        (
            "models",
            file.models,
            [*file.matrix.model, *(extra.model for extra in file.include)],
        ),
    ):
        for name in names:
            if name not in allowed:
                raise InputError(f"{path}: {key}: {unknown_name(name, allowed)}")
    if file.reference and registry.entry(file.reference).device == "cuda":
        raise InputError(
            f"{path}: reference: references run on the CPU, {file.reference} on cuda only"
        )
    if AVAILABLE in file.matrix.runtime and len(file.matrix.runtime) > 1:
        raise InputError(f"{path}: matrix.runtime: {AVAILABLE!r} stands alone")


def unknown_name(name: str, allowed: Iterable[str]) -> str:
    """What is wrong with a name that is not one of those allowed, for the end of a message."""
    allowed = list(allowed)
    return f"unknown {name!r}, allowed are {', '.join(allowed)}{_nearest(name, allowed)}"


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _explain(error: ValidationError, path: Path) -> str:
    """The first mistake in one line: file, key, what is wrong, what was found."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "the file"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        allowed = _keys_at(first["loc"][:-1])
        return f"{path}: {key}: {unknown_name(str(first['loc'][-1]), allowed)}"
    if first["type"] in ("model_type", "dict_type"):
        message = f"must be a table, [{key}] or {{ KEY = VALUE, ... }}"
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
    inner: dict[tuple[Any, ...], type[BaseModel]] = {
        ("load",): LoadTable,
        ("load", "slo"): SloTable,
    }
    table = tables.get(str(location[0])) if location else SuiteFile
    if table is Workload:
        table = inner.get(location[2:], Workload)
    return list(table.model_fields) if table else []


def asked_runtimes(file: SuiteFile) -> list[str]:
    """The matrix's runtimes, and those that references may run on."""
    asked = file.matrix.runtime
    if asked == [AVAILABLE]:
        return registry.names()
    references = [file.reference] if file.reference else ["torch-eager", "onnxruntime-cpu"]
    return list(dict.fromkeys([*asked, *(extra.runtime for extra in file.include), *references]))
