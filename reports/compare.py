"""Two stored runs, compared as far as numbers of two days can honestly be.

What does not depend on how fast the machine was that day is judged: whether a cell ran at all, the
answers to the same examples, and sizes. Latencies and memory are set side by side and never judged;
`assay gate` measures them anew, in pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reports.comparison import agreement
from reports.comparison.accuracy import DropFormula, accuracy
from reports.comparison.agreement import Difference
from reports.comparison.growth import sizes
from reports.comparison.judgement import (
    VERDICTS,
    Judgement,
    Pair,
    Row,
    Verdict,
    axes,
    cell_label,
    measured,
)
from reports.errors import ReportError
from reports.results import Results

EXIT_CODES: Mapping[Verdict, int] = {"worse": 1, "not comparable": 3, "better": 0, "same": 0}


MEMORY = ("memory_peak_bytes", "memory_waste_bytes")


@dataclass(frozen=True)
class SideBySide:
    """One cell's latency, or its memory, in both runs. There is no verdict."""

    cell: str
    before: Row
    after: Row
    unlike: tuple[Difference, ...]
    """What of the contract or the workload differs that this quantity depends on."""


@dataclass(frozen=True)
class Comparison:
    """All that two runs say together."""

    before: str
    after: str
    """The runs' folders."""
    notes: Sequence[str]
    """What to know of the two runs before anything else is believed."""
    judgements: Sequence[Judgement]
    latencies: Sequence[SideBySide]
    memory: Sequence[SideBySide]
    """A run reads each of a cell's figures once: of their noise, two runs know nothing."""
    environment: Sequence[Difference]
    """What differs between the machines and library versions."""

    @property
    def verdict(self) -> Verdict:
        """The gravest of all: what could not be compared is no pass."""
        found = {judgement.verdict for judgement in self.judgements}
        return next((verdict for verdict in VERDICTS if verdict in found), "same")

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.verdict]

    def summary(self) -> str:
        """``1 worse, 2 not comparable, 14 same``."""
        counts = {v: sum(j.verdict == v for j in self.judgements) for v in VERDICTS}
        told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
        return told or "nothing to judge"


def compare(before: Results, after: Results, drop: DropFormula) -> Comparison:
    """Compare two finished runs. Raises ReportError where they have no cell in common."""
    old, new = ({axes(row): row for row in results.rows} for results in (before, after))
    pairs = [(old[cell], new[cell]) for cell in old if cell in new]
    if not pairs:
        raise ReportError(
            f"{before.folder} and {after.folder} have no cell in common: {_example(before)}, "
            f"{_example(after)}"
        )
    missing = [row for cell, row in old.items() if cell not in new]
    added = [row for cell, row in new.items() if cell not in old]
    return Comparison(
        str(before.folder),
        str(after.folder),
        [*_notes(before, after), *_new_names(after, missing, added), *_settling(pairs)],
        [
            *_unlike_runs(before, after),
            *map(_missing, missing),
            *_other_workloads(pairs),
            *_statuses(pairs),
            *accuracy(before, after, pairs, drop),
            *sizes(pairs),
        ],
        list(_latencies(pairs)),
        list(_memory(pairs)),
        agreement.environments(before.run, after.run),
    )


def _example(results: Results) -> str:
    first = next(iter(results.rows), None)
    return f"{results.folder} has " + ("none" if first is None else cell_label(first))


# The runs as a whole.


def _notes(before: Results, after: Results) -> Iterator[str]:
    if before.run.get("suite_sha256") != after.run.get("suite_sha256"):
        yield "the suite's text has changed between the two runs"
    for results in (before, after):
        if only := results.run.get("only"):
            yield f"{results.folder} is a run of part of its suite ({only})"
        if again := results.run.get("resumed"):
            yield f"{results.folder} was measured in {1 + len(again)} sessions"


def _new_names(after: Results, missing: Sequence[Row], added: Sequence[Row]) -> Iterator[str]:
    if added:
        names = ", ".join(map(cell_label, added))
        yield f"new in {after.folder}, compared with nothing: {names}"
    for row in missing:
        if (other := _renamed(row, added)) is not None:
            yield (
                f"{cell_label(row)} may be called {cell_label(other)} now, which has the same "
                "artifact and is asked for the same: renamed cells are not compared"
            )


def _renamed(row: Row, added: Sequence[Row]) -> Row | None:
    """The new cell that could be this one under another name, if there is one alone."""
    fixed = ("artifact_key", "runtime", "attention", "device")
    alike = [
        other
        for other in added
        if row.get("artifact_key") is not None
        and axes(row, fixed) == axes(other, fixed)
        and not agreement.workloads(row, other)
    ]
    return alike[0] if len(alike) == 1 else None


def _unlike_runs(before: Results, after: Results) -> Iterator[Judgement]:
    """What makes all else doubtful."""
    doubts = (
        (
            "suite",
            [str(results.run.get("suite")) for results in (before, after)],
            "cells of one name may be different builds in two suites",
        ),
        (
            "schema version",
            [str(results.schema_version) for results in (before, after)],
            "a column may mean something else in another version of the tables",
        ),
    )
    for metric, (old, new), seen in doubts:
        if old != new:
            yield Judgement("run", metric, "not comparable", old, new, seen)


def _missing(row: Row) -> Judgement:
    seen = "not in the second run: renamed, removed, not chosen, or its runtime is missing"
    return Judgement(cell_label(row), "cell", "not comparable", row["status"], "missing", seen)


# Single cells.


def _other_workloads(pairs: Iterable[Pair]) -> Iterator[Judgement]:
    """Two cells of one name that were asked for different things: of the build alone can be
    judged what does not depend on it."""
    for old, new in pairs:
        if unlike := agreement.workloads(old, new):
            before = ", ".join(f"{each.name} {each.before}" for each in unlike)
            after = ", ".join(f"{each.name} {each.after}" for each in unlike)
            seen = "another workload of the same name"
            yield Judgement(cell_label(new), "workload", "not comparable", before, after, seen)


def _statuses(pairs: Iterable[Pair]) -> Iterator[Judgement]:
    """Each cell that was not measured in both runs, unless only its latency did not settle or it
    was asked for something else."""
    for old, new in pairs:
        if measured((old, new)) or _settled_once(old, new) or agreement.workloads(old, new):
            continue
        before, after = old["status"], new["status"]
        change = _gravity(after) - _gravity(before)
        verdict: Verdict = "worse" if change > 0 else "better" if change < 0 else "same"
        seen = new.get("reason") or f"it was: {old.get('reason')}"
        yield Judgement(cell_label(new), "status", verdict, before, after, seen)


def _gravity(status: str) -> int:
    """A build that runs, one that its runtime declines, one that fails."""
    return {"ok": 0, "not-stationary": 0, "unsupported": 1}.get(status, 2)


def _settling(pairs: Iterable[Pair]) -> Iterator[str]:
    """Whether a latency settles is a matter of the machine's day: told, and no verdict."""
    for old, new in pairs:
        if _settled_once(old, new):
            reason = next(row.get("reason") for row in (old, new) if not measured((row, row)))
            yield f"{cell_label(new)} was {old['status']} and is {new['status']}: {reason}"


def _settled_once(old: Row, new: Row) -> bool:
    return {old["status"], new["status"]} == {"ok", "not-stationary"}


def _latencies(pairs: Iterable[Pair]) -> Iterator[SideBySide]:
    for old, new in pairs:
        if any(_timed(row) for row in (old, new)):
            unlike = (
                *agreement.contracts(old, new),
                *agreement.workloads(old, new),
                *agreement.processes(old, new),
            )
            yield SideBySide(cell_label(new), old, new, unlike)


def _timed(row: Mapping[str, Any]) -> bool:
    return row.get("latency_p50_ms") is not None or row.get("speedup") is not None


def _memory(pairs: Iterable[Pair]) -> Iterator[SideBySide]:
    for old, new in pairs:
        if any(row.get(column) is not None for row in (old, new) for column in MEMORY):
            contracts = agreement.contracts(old, new, agreement.MEMORY_CONTRACT)
            unlike = (*contracts, *agreement.workloads(old, new))
            yield SideBySide(cell_label(new), old, new, unlike)
