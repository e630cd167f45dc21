"""What differs between two runs, so that their numbers cannot be set against each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reports import wording
from reports.columns import CONTRACT
from reports.provenance import flatten

Row = Mapping[str, Any]

WORKLOAD = (
    *("batch", "sequence", "past", "kind"),
    *("load", "burstiness", "concurrency", "slots", "slo", "rate_share"),
)
"""What a workload's name stands for: two of one name may ask for different things."""
RATE = "requested_requests_per_s"
"""Belongs to it too, unless it was settled from a ``rate_share`` by what the session finished."""
MEMORY_CONTRACT = ("contract_threads", "contract_precision", "contract_allocator")
"""What of the contract decides how much memory a session takes."""


@dataclass(frozen=True)
class Difference:
    """One fact that two runs or two rows have unlike."""

    name: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.name} ({self.before}, then {self.after})"


def environments(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """What differs between the machines and library versions of two ``run.json``.

    A run that was resumed stands for each of the machines that it ran on. A run that says nothing
    of its machine agrees with none.
    """
    facts = [_facts(run) for run in (before, after)]
    if not all(facts):
        return [Difference("environment", *("known" if own else "unknown" for own in facts))]
    for run, own in zip((before, after), facts, strict=True):
        for again in run.get("resumed") or ():
            for name, value in _facts(again).items():
                if own.get(name) != value:
                    own[name] = f"{_shown(own.get(name))}, resumed with {value}"
    return _differences(*facts)


def contracts(before: Row, after: Row, names: Iterable[str] = CONTRACT) -> list[Difference]:
    """What differs between what two rows' clocks (or ``names`` of that) cover."""
    return _between(before, after, names, "contract_")


def workloads(before: Row, after: Row) -> list[Difference]:
    """What differs between what was asked of the two sessions."""
    settled = any(row.get("rate_share") is not None for row in (before, after))
    return _between(before, after, WORKLOAD if settled else (*WORKLOAD, RATE), "")


def processes(before: Row, after: Row) -> list[Difference]:
    """Whether one's interval is of calls and the other's of processes."""
    counts = [wording.processes(row) for row in (before, after)]
    if (counts[0] == 1) == (counts[1] == 1):
        return []
    return [Difference("processes", *map(str, counts))]


def listed(differences: Sequence[Difference]) -> str:
    return "; ".join(map(str, differences))


def _facts(run: Mapping[str, Any]) -> dict[str, str]:
    machine = {k: v for k, v in (run.get("environment") or {}).items() if k != "versions"}
    versions = run.get("versions") or (run.get("environment") or {}).get("versions") or {}
    return dict([*flatten(machine), *flatten(versions, "versions")])


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    return [
        Difference(name, _shown(before.get(name)), _shown(after.get(name)))
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name)
    ]


def _between(before: Row, after: Row, names: Iterable[str], prefix: str) -> list[Difference]:
    def of(row: Row) -> dict[str, Any]:
        return {name.removeprefix(prefix): row.get(name) for name in names}

    return _differences(of(before), of(after))


def _shown(value: Any) -> str:
    return "unknown" if value is None else str(value)
