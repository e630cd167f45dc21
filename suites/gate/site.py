"""What a gate works with: a suite's models and data, found and checked on this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from compile.artifact import Store
from runtimes import doctor
from suites.bench import Bench
from suites.builder import Builder
from suites.cell import Cell
from suites.progress import Display
from suites.reading import asked_runtimes, read_suite
from suites.subject import Subject, find_subject
from suites.suite import Suite, load_suite


@dataclass(frozen=True)
class Site:
    """One suite on this machine, ready to be built and measured."""

    suite: Suite
    cells: tuple[Cell, ...]
    subjects: Mapping[str, Subject]
    environment: Mapping[str, Any]
    versions: Mapping[str, Mapping[str, str]]
    store: Store
    display: Display
    logs: Path

    @contextmanager
    def bench(self, subject: Subject, cells: Sequence[Cell]) -> Iterator[Bench]:
        with Builder(self.store, self.logs / "builder.log", self.display.stage) as builder:
            workloads = tuple(dict.fromkeys(cell.workload for cell in cells))
            yield Bench(
                self.suite,
                subject,
                self.store,
                builder,
                self.display.stage,
                self.logs,
                self.versions,
                workloads,
            )


@contextmanager
def open_site(reference: str, only: str | None, console: Console | None) -> Iterator[Site]:
    """Read the suite, look at this machine, and find the models and data of the cells that are
    ``only`` (a glob; None for all). Raises InputError for what the user can mend."""
    console = console or Console(stderr=True)
    file, _, _ = read_suite(reference)
    with console.status("looking at this machine, models and data"):
        environment = doctor.environment()
        pythons = {name: entry.python for name, entry in file.runtimes.items() if entry.python}
        survey = dict(doctor.survey(pythons, asked_runtimes(file)))
        available = [name for name, found in survey.items() if found.available]
        suite = load_suite(reference, available, cuda=bool(environment["gpus"]))
        cells = suite.only(only) if only else suite.cells
        names = dict.fromkeys(cell.model for cell in cells)
        subjects = {name: find_subject(suite, name, cells) for name in names}
    versions = {name: found.versions for name, found in survey.items()}
    with Display(console=console) as display, tempfile.TemporaryDirectory() as logs:
        yield Site(
            suite,
            cells,
            subjects,
            environment,
            versions,
            Store.default(),
            display,
            Path(logs),
        )
