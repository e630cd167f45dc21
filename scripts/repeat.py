"""Does a second run say what the first one said? The same suite, run again and again.

    python -m scripts.repeat FOLDER --runs 10
    python -m scripts.repeat FOLDER --runs 10 --processes 1 --patience 10

Runs a suite of two builds of a small encoder on ONNX Runtime until ``FOLDER`` has so many runs (it
goes on where it was killed), each by a new ``assay run``, and prints for each cell in how many of
them the p50's interval holds the median of all runs' calls together (each process counts the same,
however many calls it took), and by how much the p50s and the two builds' ratios differ from run to
run. A p50 that no interval was given for counts neither way and is told. "Next process" is the
correlation of successive processes' medians, over all pairs within a run, what differs from run to
run included: ``suites/measure/processes.py`` has to assume it, and sees neither from one run.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

import reports
from suites.measure.plan import MeasurePlan
from suites.measure.processes import balanced_quantile

SUITE = """
threads = {threads}
[matrix]
model = ["encoder"]
runtime = ["onnxruntime-cpu"]
recipe = ["fp32", "int8-dynamic"]
workload = ["one", "eight"]
[models.encoder]
source = "encoder-small"
classes = 4
train = false
[workloads.one]
batch = 1
sequence = 128
[workloads.eight]
batch = 8
sequence = 128
[measure]
processes = {processes}
patience_s = {patience}
"""
TABLES = ("cells.parquet", "samples.parquet")
"""What a finished run has."""


@dataclass(frozen=True)
class Run:
    """What is kept of one run, by cell id."""

    cells: pd.DataFrame
    kept_ns: dict[str, list[np.ndarray]]
    """Calls after warm-up of each process in order of time, int64."""

    @classmethod
    def load(cls, folder: Path) -> Run:
        results = reports.load(folder)
        samples = results.samples[results.samples["phase"] == "sample"]
        kept = {
            str(id): [part.to_numpy() for _, part in calls.groupby("process")["latency_ns"]]
            for id, calls in samples.groupby("cell_id")
        }
        return cls(results.cells.set_index("cell_id"), kept)


def run(folder: Path, runs: int, processes: int, patience: float, threads: int) -> list[Run]:
    """Every run in ``folder``, made where there are fewer than ``runs``. ``processes`` measure each
    cell; ``patience`` is how many seconds the turns of a workload are put off while the machine is
    slow."""
    folder = folder / f"processes-{processes}-patience-{patience:g}-threads-{threads}"
    folder.mkdir(parents=True, exist_ok=True)
    suite = folder / "repeat.toml"
    suite.write_text(SUITE.format(processes=processes, patience=patience, threads=threads))
    found = []
    for number in range(1, runs + 1):
        out = folder / f"run-{number:02}"
        if not all((out / name).is_file() for name in TABLES):
            command = [sys.executable, "-m", "assay", "run", str(suite), "--out", str(out)]
            code = subprocess.run([*command, "--fresh"], stdout=subprocess.DEVNULL).returncode
            if code not in (0, 4):  # 4: some cell has no latency, and its row says why
                raise SystemExit(f"{' '.join(command)} ended with exit code {code}")
            print(f"{number} of {runs}: load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
        found.append(Run.load(out))
    return found


def table(runs: Sequence[Run]) -> str:
    """Markdown: a row for each cell, and one for each workload's ratio."""
    titles = [
        "cell",
        "pooled p50, ms",
        "intervals given",
        "hold it",
        "half width",
        "p50s differ by",
        "next process",
        "ratio to fp32",
        "ratios differ by",
    ]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    cells = runs[0].cells
    for id in cells.index:
        rows = pd.DataFrame([each.cells.loc[id] for each in runs])
        parts = [each.kept_ns[str(id)] for each in runs]
        pooled = balanced_quantile([part for each in parts for part in each], 0.5) / 1e6
        low, high = rows["latency_p50_low_ms"], rows["latency_p50_high_ms"]
        given = low.notna()
        holds = given & (low <= pooled) & (pooled <= high)
        width = float(((high - low) / 2 / rows["latency_p50_ms"]).median())
        ratios = 1 / rows["speedup"].dropna().to_numpy(float)
        lines.append(
            f"| {cells.loc[id, 'recipe']} {cells.loc[id, 'workload']} | {pooled:.3f} "
            f"| {given.sum()} of {len(rows)} | {holds.sum()} | {width:.1%} "
            f"| {deviation(rows['latency_p50_ms'].dropna()):.1%} | {next_process(parts)} "
            + (
                f"| {np.median(ratios):.3f} | {deviation(ratios):.1%} |"
                if cells.loc[id, "recipe"] != "fp32"
                else "| | |"
            )
        )
    return "\n".join(lines)


def next_process(runs: Sequence[Sequence[np.ndarray]]) -> str:
    """Rank correlation of a process's median with the next one's in its run, over all runs."""
    medians = [[float(np.median(part)) for part in each] for each in runs]
    pairs = [pair for each in medians for pair in itertools.pairwise(each)]
    if len(pairs) < 2:
        return ""
    return f"{stats.spearmanr(*np.transpose(pairs)).statistic:.2f}"


def deviation(values: Sequence[float]) -> float:
    """The median absolute deviation from the median, relative to it."""
    array = np.asarray(values, float)
    middle = np.median(array)
    return float(np.median(np.abs(array - middle)) / middle)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--processes", type=int, default=MeasurePlan.processes, metavar="K")
    parser.add_argument("--patience", type=float, default=MeasurePlan.patience_s, metavar="S")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--threads", type=int, default=cores, help="of a session")
    options = parser.parse_args()
    runs = run(options.folder, options.runs, options.processes, options.patience, options.threads)
    print(table(runs))


if __name__ == "__main__":
    main()
