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
from suites.bench import Bench
from suites.builder import Builder
from suites.cell import Cell
from suites.expanded import expand_here
from suites.progress import Display
from suites.subject import Subject
from suites.suite import Suite


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
    """The sessions', for as long as the site is open."""
    builder_log: Path
    """Kept when the gate has ended: a build that died says to look there."""

    @contextmanager
    def bench(self, subject: Subject, cells: Sequence[Cell]) -> Iterator[Bench]:
        with Builder(self.store, self.builder_log, self.display.stage) as builder:
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
def open_site(
    reference: str, only: str | None, console: Console | None, builder_log: Path | None = None
) -> Iterator[Site]:
    """Read the suite, look at this machine, and find the models and data of the cells that are
    ``only`` (a glob; None for all). What the builder prints is appended to ``builder_log``, by
    default one beside the artifacts' store. Raises InputError for what the user can mend."""
    console = console or Console(stderr=True)
    expanded = expand_here(reference, console)
    cells = expanded.suite.only(only) if only else expanded.suite.cells
    expanded.suite.require_calls(cells)
    with console.status("looking at models and data"):
        subjects = expanded.subjects(cells)
    store = Store.default()
    with Display(console=console) as display, tempfile.TemporaryDirectory() as logs:
        yield Site(
            expanded.suite,
            cells,
            subjects,
            expanded.environment,
            expanded.versions,
            store,
            display,
            Path(logs),
            builder_log or store.root.parent / "logs" / "gate.log",
        )
