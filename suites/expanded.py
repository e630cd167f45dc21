"""A suite on this machine: which of its cells there are here, and what the machine is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from compile.artifact import Store
from compile.errors import InputError
from runtimes import doctor, registry
from runtimes.options import parse
from runtimes.process import find_interpreter
from runtimes.session import Availability
from suites.cell import Cell
from suites.measure.meters.survey import survey as survey_meters
from suites.reading import asked_runtimes, read_suite
from suites.subject import Subject, find_subject
from suites.suite import Suite, load_suite
from suites.suite_file import SuiteFile


@dataclass(frozen=True)
class Expanded:
    """A suite as it expands on this machine, and what was found out about that."""

    suite: Suite
    environment: dict[str, Any]
    survey: Mapping[str, Availability]

    @property
    def versions(self) -> dict[str, Mapping[str, str]]:
        """By runtime: what decides its results."""
        return {name: found.versions for name, found in self.survey.items()}

    def subjects(self, cells: Iterable[Cell]) -> dict[str, Subject]:
        """The models of these cells by name, each with its data. Raises InputError."""
        cells = tuple(cells)
        names = dict.fromkeys(cell.model for cell in cells)
        return {name: find_subject(self.suite, name, cells) for name in names}


def expand_here(reference: str, console: Console) -> Expanded:
    """Read a suite, look at this machine and expand the one for the other.

    Raises InputError for what the user can mend in the suite, and for a store that cannot be
    written.
    """
    file, path, _ = read_suite(reference)
    _check_options(file, path)
    Store.default().require_writable()
    with console.status("looking at this machine"):
        environment = doctor.environment()
        environment["meters"] = {
            name: told["absent"] or "read"
            for name, told in survey_meters(bool(environment["gpus"])).items()
        }
        pythons = {name: entry.python for name, entry in file.runtimes.items() if entry.python}
        survey = dict(doctor.survey(pythons, asked_runtimes(file)))
    available = [name for name, found in survey.items() if found.available]
    suite = load_suite(reference, available, cuda=bool(environment["gpus"]))
    return Expanded(suite, environment, survey)


def _check_options(file: SuiteFile, path: Path) -> None:
    """Raise InputError for an option that a runtime does not have, or an interpreter that does not
    exist, before anything is built."""
    for name, entry in file.runtimes.items():
        try:
            if entry.python is not None:
                find_interpreter(entry.python)
            parse(registry.entry(name).load().options, entry.model_extra or {}, name)
        except InputError as error:
            raise InputError(f"{path}: runtimes.{name}: {error}") from error
