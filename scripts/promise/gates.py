"""Gates of known truth on this machine, a line of a file each."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from reports.gate import Finding, GateReport
from scripts.neighbour import neighbour
from suites.gate.keeping import keep_baseline
from suites.gate.run import gate

MAX_PAIRS = 60
ALPHA, BETA, IGNORE, MARGIN = 0.01, 0.05, 0.01, 0.05
MAX_GROWTH = 0.10
"""Of peak memory, as in the rules that hold where none are written."""
SUITE = f"""
[matrix]
model = ["encoder"]
runtime = ["onnxruntime-cpu"]
recipe = [{{recipes}}]
workload = [{{workloads}}]
[models.encoder]
source = "encoder-small"
classes = 4
train = false
{{sizes}}
[gate]
alpha = {ALPHA}
beta = {BETA}
max_pairs = {MAX_PAIRS}
[[gate.rules]]
metric = "latency"
ignore = {IGNORE}
margin = {MARGIN}
[[gate.rules]]
metric = "memory_peak"
max_growth = {MAX_GROWTH}
"""
EXCLUDED = """
[[exclude]]
recipe = "int4"
workload = "eight"
"""


@dataclass(frozen=True, order=True)
class Kind:
    """Gates that are counted together."""

    slow_down: float
    comparisons: int
    neighbours: int

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Kind:
        return cls(entry["slow_down"], entry["comparisons"], entry.get("neighbours", 0))


def suite(recipes: Sequence[str], batches: Mapping[str, int], more: str = "") -> str:
    sizes = "".join(f"[workloads.{w}]\nbatch = {b}\nsequence = 128\n" for w, b in batches.items())
    # A TOML array of strings is written as JSON's.
    names = (json.dumps(list(names))[1:-1] for names in (recipes, batches))
    return SUITE.format(recipes=next(names), workloads=next(names), sizes=sizes + more)


ONE, TWO = {"one": 1}, {"one": 1, "eight": 8}
SUITES = {
    1: suite(["fp32"], ONE),
    2: suite(["fp32"], TWO),
    5: suite(["fp32", "int8-dynamic", "int4"], TWO, EXCLUDED),
    10: suite(["fp32", "int8-dynamic"], TWO | {"two": 2, "four": 4, "sixteen": 16}),
}
"""By the number of their cells."""


def run(file: Path, gates: int, kind: Kind) -> None:
    """Append gates of a kind to ``file`` until it holds that many."""
    done = sum(Kind.of(each) == kind for each in read(file))
    quiet = Console(file=io.StringIO())
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as beside:
        path, kept = Path(folder) / "promise.toml", Path(folder) / "kept"
        path.write_text(SUITES[kind.comparisons])
        keep_baseline(str(path), kept, console=quiet)
        for number in range(kind.neighbours):
            beside.enter_context(neighbour(seed=number))
        for number in range(done, gates):
            report = gate(str(path), kept, slow_down=kind.slow_down, console=quiet)
            found = [f for f in report.findings if f.metric == "latency"]
            peaks = {f.cell: f for f in report.findings if f.metric == "memory_peak"}
            if len(found) != kind.comparisons or len(peaks) != kind.comparisons:
                raise SystemExit("\n".join(report.lines()))
            with file.open("a") as out:
                out.write(json.dumps(_entry(report, found, peaks, kind)) + "\n")
            told = [f"{f.outcome} in {len(f.facts['differences'])}" for f in found]
            seconds = report.facts["seconds"]
            print(f"{number + 1}/{gates} {seconds:.0f} s: {', '.join(told)}", flush=True)


def _entry(
    report: GateReport, found: Sequence[Finding], peaks: Mapping[str, Finding], kind: Kind
) -> dict[str, Any]:
    return {
        "when": time.strftime("%Y-%m-%d %H:%M:%S"),
        **asdict(kind),
        "seconds": round(report.facts["seconds"], 2),
        "load": os.getloadavg()[0],
        "cells": [
            {
                "cell": f.cell,
                "outcome": f.outcome,
                "differences": [round(d, 6) for d in f.facts["differences"]],
                "others_cores": f.facts["others_cores"],
                "timed_s": round(f.facts["timed_s"], 3),
                "pair_own_s": round(f.facts["pair_own_s"], 3),
                "peak_outcome": peaks[f.cell].outcome,
                "peak_bytes": peaks[f.cell].facts.get("pairs", []),
            }
            for f in found
        ],
    }


def read(file: Path) -> list[dict[str, Any]]:
    """The file's gates; a last line that was cut short by a kill is left out."""
    if not file.exists():
        return []
    lines = file.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
