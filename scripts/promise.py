"""Does the gate keep what it promises? Whole gates, counted.

    python -m scripts.promise run GATES.jsonl --gates 60
    python -m scripts.promise run GATES.jsonl --gates 10 --comparisons 5
    python -m scripts.promise run GATES.jsonl --gates 40 --slow-down 0.05
    python -m scripts.promise show GATES.jsonl
    python -m scripts.promise simulate

Each gate holds the builds of a small encoder on ONNX Runtime to a kept baseline of the same builds,
as ``assay gate`` does, and is a line of the file. ``run`` goes on where the file ends: it may be
killed at any time. ``show`` counts outcomes, and replays the pairs that were recorded without a
slow-down under random signs: a pair and its mirror image are as likely as one another when both
sides are one build, so that thousands of gates can be had from the pairs of a few. ``simulate``
says how many pairs a comparison needs, by how much they differ by chance.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from reports.gate import Finding, GateReport
from suites.gate.keeping import keep_baseline
from suites.gate.run import gate
from suites.gate.verdict import PairedVerdict

REPLAYS = 2000
SIMULATED = 300
MAX_PAIRS = 60
ALPHA, BETA, IGNORE, MARGIN = 0.01, 0.05, 0.01, 0.05
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
[workloads.one]
batch = 1
sequence = 128
{{more}}
[gate]
alpha = {ALPHA}
beta = {BETA}
max_pairs = {MAX_PAIRS}
[[gate.rules]]
metric = "latency"
ignore = {IGNORE}
margin = {MARGIN}
"""
EIGHT = """
[workloads.eight]
batch = 8
sequence = 128
[[exclude]]
recipe = "int4"
workload = "eight"
"""
SUITES = {
    1: SUITE.format(recipes='"fp32"', workloads='"one"', more=""),
    5: SUITE.format(
        recipes='"fp32", "int8-dynamic", "int4"', workloads='"one", "eight"', more=EIGHT
    ),
}
"""By the number of their cells."""


def run(file: Path, gates: int, comparisons: int, slow_down: float) -> None:
    """Append gates of a kind to ``file`` until it holds that many."""
    done = sum(_kind(each) == (comparisons, slow_down) for each in read(file))
    quiet = Console(file=io.StringIO())
    with tempfile.TemporaryDirectory() as folder:
        suite, kept = Path(folder) / "promise.toml", Path(folder) / "kept"
        suite.write_text(SUITES[comparisons])
        keep_baseline(str(suite), kept, console=quiet)
        for number in range(done, gates):
            report = gate(str(suite), kept, slow_down=slow_down, console=quiet)
            found = [f for f in report.findings if f.metric == "latency"]
            if len(found) != comparisons:
                raise SystemExit("\n".join(report.lines()))
            with file.open("a") as out:
                out.write(json.dumps(_entry(report, found, slow_down)) + "\n")
            told = [f"{f.outcome} in {len(f.facts['differences'])}" for f in found]
            seconds = report.facts["seconds"]
            print(f"{number + 1}/{gates} {seconds:.0f} s: {', '.join(told)}", flush=True)


def _entry(report: GateReport, found: Sequence[Finding], slow_down: float) -> dict[str, Any]:
    return {
        "when": time.strftime("%Y-%m-%d %H:%M:%S"),
        "comparisons": len(found),
        "slow_down": slow_down,
        "seconds": round(report.facts["seconds"], 2),
        "load": os.getloadavg()[0],
        "cells": [
            {
                "cell": f.cell,
                "outcome": f.outcome,
                "differences": [round(d, 6) for d in f.facts["differences"]],
                "timed_s": round(f.facts["timed_s"], 3),
                "pair_own_s": round(f.facts["pair_own_s"], 3),
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


def show(gates: Sequence[dict[str, Any]], seed: int = 0) -> str:
    """Markdown: the counts, and what they rest on."""
    titles = [
        "slow-down",
        "comparisons",
        "gates",
        "REGRESSED",
        "all PASS",
        "INCONCLUSIVE",
        "pairs a comparison: median, largest",
        "s a gate: median, largest",
    ]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for kind in sorted({_kind(each) for each in gates}, key=lambda kind: (kind[1], kind[0])):
        mine = [each for each in gates if _kind(each) == kind]
        outcomes = [{cell["outcome"] for cell in each["cells"]} for each in mine]
        pairs = [len(cell["differences"]) for each in mine for cell in each["cells"]]
        seconds = [each["seconds"] for each in mine]
        counts = [
            sum("regressed" in each for each in outcomes),
            sum(each == {"pass"} for each in outcomes),
            sum("inconclusive" in each and "regressed" not in each for each in outcomes),
        ]
        cells = [f"{kind[1]:.0%}", str(kind[0]), str(len(mine)), *map(str, counts)]
        cells += [f"{np.median(pairs):.0f}, {max(pairs)}"]
        cells += [f"{np.median(seconds):.0f}, {max(seconds):.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    same = [cell for each in gates if not each["slow_down"] for cell in each["cells"]]
    if not same:
        return "\n".join(lines)
    pooled = np.concatenate([cell["differences"] for cell in same])
    medians = np.array([np.median(cell["differences"]) for cell in same])
    robust = 1.4826 * np.median(np.abs(pooled))
    lines += [
        "",
        f"Without a slow-down, {len(pooled)} pairs: {np.mean(pooled > 0):.1%} of them say slower, "
        f"median {np.median(pooled):+.2%}; {np.sum(medians > 0)} of {len(same)} comparisons have a "
        f"positive median. Standard deviation of a pair {pooled.std():.2%}, from the median "
        f"absolute deviation {robust:.2%}. A pair costs "
        f"{np.median([cell['pair_own_s'] for cell in same]):.2f} s beyond its timed calls.",
        "",
        *(
            replayed(same, comparisons, stops, seed)
            for comparisons in (1, 5)
            for stops in (True, False)
        ),
    ]
    return "\n".join(lines)


def replayed(same: Sequence[dict[str, Any]], comparisons: int, stops: bool, seed: int = 0) -> str:
    """Alarms of gates that are put together from recorded comparisons, every pair's sign a coin.

    With ``stops`` each comparison ends as in a gate; without, it goes on to ``MAX_PAIRS`` whatever
    it has found, which gives a false alarm every chance.
    """
    random = np.random.default_rng(seed)
    alarms = 0
    for _ in range(REPLAYS):
        alarms += any(
            _alarmed(_series(same, random), random, comparisons, stops) for _ in range(comparisons)
        )
    how = "stopping as a gate does" if stops else f"never stopping before pair {MAX_PAIRS}"
    return (
        f"- Replays of gates of {comparisons}, {how}: {alarms} of {REPLAYS} alarm "
        f"({alarms / REPLAYS:.2%}; promised at most {ALPHA:.0%})."
    )


def _series(same: Sequence[dict[str, Any]], random: np.random.Generator) -> list[float]:
    """Recorded comparisons one after the other, in random order, until there are enough pairs."""
    series: list[float] = []
    while len(series) < MAX_PAIRS:
        series += same[int(random.integers(len(same)))]["differences"]
    return series[:MAX_PAIRS]


def _alarmed(
    series: list[float], random: np.random.Generator, comparisons: int, stops: bool
) -> bool:
    verdict = PairedVerdict(IGNORE, MARGIN, ALPHA, BETA, comparisons, MAX_PAIRS)
    for difference in np.array(series) * random.choice([-1.0, 1.0], len(series)):
        verdict.differences.append(float(difference))
        if verdict.slower >= verdict.slower_needed:
            return True
        if stops and verdict.finished:
            return False
    return False


def simulated(seed: int = 0) -> str:
    """Markdown: pairs that a comparison of five needs, in the median, and how often it decides so.

    Noise is normal, or with outliers: one pair in ten lies five times as far off.
    """
    random = np.random.default_rng(seed)
    spreads = (0.005, 0.01, 0.02, 0.03, 0.05)
    lines = [
        "| slow-down | noise | " + " | ".join(f"{spread:.1%}" for spread in spreads) + " |",
        "|---|---|" + "---|" * len(spreads),
    ]
    for slow_down, wanted in (
        (0.0, "pass"),
        (0.01, "pass"),
        (0.05, "regressed"),
        (0.1, "regressed"),
    ):
        for outliers in (0.0, 0.1):
            cells = []
            for spread in spreads:
                verdicts = [
                    _verdict_of(slow_down, spread, outliers, random) for _ in range(SIMULATED)
                ]
                pairs = np.median([len(verdict.differences) for verdict in verdicts])
                share = np.mean([verdict.outcome == wanted for verdict in verdicts])
                cells.append(f"{pairs:.0f} ({share:.0%})")
            noise = "with outliers" if outliers else "normal"
            head = f"{slow_down:.0%}: {wanted.upper()} | {noise}"
            lines.append(f"| {head} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _verdict_of(
    slow_down: float, spread: float, outliers: float, random: np.random.Generator
) -> PairedVerdict:
    verdict = PairedVerdict(IGNORE, MARGIN, ALPHA, BETA, max(SUITES), MAX_PAIRS)
    while not verdict.finished:
        far = 5.0 if random.random() < outliers else 1.0
        verdict.add(float(np.log1p(slow_down) + far * spread * random.normal()))
    return verdict


def _kind(entry: dict[str, Any]) -> tuple[int, float]:
    return entry["comparisons"], entry["slow_down"]


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Count what the gate promises.")
    commands = parser.add_subparsers(required=True, dest="command")
    make = commands.add_parser("run", help="append gates to the file")
    make.add_argument("file", type=Path)
    make.add_argument("--gates", type=int, required=True, help="of this kind, in the file")
    make.add_argument("--comparisons", type=int, choices=sorted(SUITES), default=1)
    make.add_argument("--slow-down", type=float, default=0.0)
    count = commands.add_parser("show", help="count the file's gates, as Markdown")
    count.add_argument("file", type=Path)
    commands.add_parser("simulate", help="pairs needed, by noise, as Markdown")
    options = parser.parse_args(None if arguments is None else list(arguments))
    if options.command == "run":
        run(options.file, options.gates, options.comparisons, options.slow_down)
    elif options.command == "simulate":
        print(simulated())
    else:
        print(show(read(options.file)))


if __name__ == "__main__":
    main()
