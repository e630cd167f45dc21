"""What a gate found, and the forms in which it is told: a terminal, JSON, JUnit XML, Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

Outcome = Literal["pass", "regressed", "inconclusive", "failed"]
EXIT_CODES: Mapping[Outcome, int] = {"pass": 0, "regressed": 1, "inconclusive": 3, "failed": 4}
WORST: tuple[Outcome, ...] = ("regressed", "failed", "inconclusive", "pass")
"""What a gate says that has several: a regression that was seen stays one, whatever else failed."""
SIGNS: Mapping[Outcome, str] = {
    "pass": "PASS",
    "regressed": "REGRESSED",
    "inconclusive": "INCONCLUSIVE",
    "failed": "FAILED",
}
SCHEMA_VERSION = 1


BUILDER_LOG = "builder.log"
"""What was printed while artifacts were made: a finding of a build that died names it."""
FILES = ("gate.json", "junit.xml", "summary.md", BUILDER_LOG)
"""What a gate leaves."""


@dataclass(frozen=True)
class Finding:
    """One rule applied to one cell."""

    cell: str
    """The cell's label; ``gate`` for what concerns all of them."""
    metric: str
    outcome: Outcome
    seen: str
    """What was found, in one line with units."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """The numbers behind it."""


@dataclass(frozen=True)
class GateReport:
    """All findings of one gate."""

    suite: str
    against: str
    """What the candidates were held to."""
    findings: Sequence[Finding]
    facts: Mapping[str, Any]
    """The gate's settings, the environment, and what it took."""
    ungated: Sequence[str] = ()
    """What no finding is about although a reader of a pass may think so."""

    @property
    def outcome(self) -> Outcome:
        """The worst of its findings; a gate that found nothing knows nothing."""
        found = {finding.outcome for finding in self.findings}
        return next((each for each in WORST if each in found), "inconclusive")

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.outcome]

    def lines(self) -> list[str]:
        """What was not gated, one line a rule, the worst last, and the verdict."""
        width = max((len(f.metric) for f in self.findings), default=0)
        ordered = sorted(self.findings, key=lambda f: -WORST.index(f.outcome))
        told = [f"{SIGNS[f.outcome]:12} {f.metric:{width}}  {f.cell}: {f.seen}" for f in ordered]
        ungated = [f"{'NOT GATED':12} {each}" for each in self.ungated]
        return [*ungated, *told, f"{SIGNS[self.outcome]}: {self.summary()}"]

    def summary(self) -> str:
        counts = [
            f"{sum(f.outcome == outcome for f in self.findings)} {words}"
            for outcome, words in (
                ("regressed", "regressed"),
                ("failed", "failed"),
                ("inconclusive", "inconclusive"),
                ("pass", "passed"),
            )
            if any(f.outcome == outcome for f in self.findings)
        ]
        return f"{self.suite} against {self.against}: {', '.join(counts) or 'nothing was compared'}"

    @staticmethod
    def clear(folder: Path) -> None:
        """Remove what an earlier gate wrote, before one that may end without a word: a CI that
        shows the summary in any case must not show yesterday's."""
        for name in FILES:
            (folder / name).unlink(missing_ok=True)

    def write(self, folder: Path) -> None:
        """``gate.json``, ``junit.xml`` and ``summary.md`` (for a CI's step summary)."""
        folder.mkdir(parents=True, exist_ok=True)
        data = {
            "version": SCHEMA_VERSION,
            "suite": self.suite,
            "against": self.against,
            "outcome": self.outcome,
            "exit_code": self.exit_code,
            "findings": [asdict(finding) for finding in self.findings],
            "ungated": list(self.ungated),
            **self.facts,
        }
        (folder / "gate.json").write_text(json.dumps(data, indent=1, default=str) + "\n")
        (folder / "junit.xml").write_bytes(self.junit())
        (folder / "summary.md").write_text(self.markdown())

    def junit(self) -> bytes:
        """A test case for each rule. What regressed is a failure, what failed an error, and what
        is inconclusive a failure too: a CI that counts skipped tests as green would pass it."""
        cases = ElementTree.Element("testsuite", name=f"assay gate {_printable(self.suite)}")
        for finding in self.findings:
            case = ElementTree.SubElement(
                cases, "testcase", classname=_printable(finding.cell), name=finding.metric
            )
            if finding.outcome != "pass":
                tag = "error" if finding.outcome == "failed" else "failure"
                ElementTree.SubElement(
                    case, tag, type=finding.outcome, message=_printable(finding.seen)
                )
        if self.ungated:
            told = "\n".join(f"not gated: {each}" for each in self.ungated)
            ElementTree.SubElement(cases, "system-out").text = _printable(told)
        counts = [finding.outcome for finding in self.findings]
        cases.set("tests", str(len(counts)))
        cases.set("failures", str(counts.count("regressed") + counts.count("inconclusive")))
        cases.set("errors", str(counts.count("failed")))
        return ElementTree.tostring(cases, encoding="utf-8", xml_declaration=True) + b"\n"

    def markdown(self) -> str:
        rows = [
            f"| {SIGNS[f.outcome]} | {f.metric} | {_cell(f.cell)} | {_cell(f.seen)} |"
            for f in sorted(self.findings, key=lambda f: WORST.index(f.outcome))
        ]
        head = ["| | rule | cell | found |", "|---|---|---|---|"]
        title = f"## {SIGNS[self.outcome]}: {_cell(self.summary())}"
        ungated = [f"- Not gated: {_cell(each)}" for each in self.ungated]
        table = [*(head if rows else []), *rows, ""]
        return "\n".join([title, "", *table, *([*ungated, ""] if ungated else [])])


def _printable(text: str) -> str:
    """Without what XML cannot hold."""
    return "".join(c if c in "\t\n" or c >= " " else "?" for c in text)


def _cell(text: str) -> str:
    for character in "\\|<>*_`[]":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())
