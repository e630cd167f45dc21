"""Does Assay report what a bare loop takes? Its p50 over the bare loop's, interleaved in one run.

    python -m scripts.truth

For a small encoder at 1 x 128 and 8 x 128 on torch-eager and onnxruntime-cpu, a worker and two bare
loops (``scripts/bare_loop.py``) take turns in random order; all live in processes of their own for
the whole run and are stopped between their turns. One loop has its C allocator settled as a worker
has (``runtimes/allocator.py``), the other leaves it as the process came.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from compile.artifact import Artifact, Store
from quantize.recipe import Recipe
from runtimes.client import Worker
from runtimes.session import SessionOptions
from scripts.bare_loop import BareLoop
from suites.builder import Builder, BuildRequest
from suites.suite_file import ModelEntry

ROUNDS = 30
SECONDS = 0.25


def compare(artifact: Artifact, runtime: str, batch: int, threads: int, logs: Path) -> str:
    """One line: the medians of all three, and Assay's over each loop's, by rounds."""
    feeds = artifact.signature.feeds({"batch": batch, "sequence": 128})
    settled, fresh = (
        BareLoop(artifact.folder, runtime, batch, threads, settled=how) for how in (True, False)
    )
    mine: list[float] = []
    with Worker.start(runtime, log_dir=logs, threads=threads) as worker:
        worker.open(artifact.folder, SessionOptions(threads=threads))
        worker.prepare(feeds)
        calls = max(3, int(SECONDS / (np.median(worker.sample(20).ns) / 1e9)))

        def assay(calls: int) -> None:
            mine.append(float(np.median(worker.sample(calls, unrecorded=3).ns)) / 1e6)

        turns: list[Callable[[int], object]] = [assay, settled.turn, fresh.turn]
        for _ in range(ROUNDS):
            random.shuffle(turns)
            for turn in turns:
                turn(calls)
    settled.end()
    fresh.end()
    return (
        f"| {runtime} | {batch} x 128 | {np.median(mine):.2f} | {np.median(settled.medians):.2f} "
        f"| {_ratio(mine, settled.medians)} | {np.median(fresh.medians):.2f} "
        f"| {_ratio(mine, fresh.medians)} | {np.median(fresh.faults):,.0f} |"
    )


def _ratio(mine: list[float], theirs: list[float]) -> str:
    """The median over rounds, with its quartiles."""
    low, middle, high = np.quantile(np.array(mine) / np.array(theirs), [0.25, 0.5, 0.75])
    return f"{middle:.3f} ({low:.3f}, {high:.3f})"


def main() -> None:
    threads = len(os.sched_getaffinity(0))
    entry = ModelEntry(source="encoder-small", classes=4, train=False)
    plain = Recipe(name="fp32")
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder)
        with Builder(Store.default(), logs / "builder.log", lambda text, done: None) as builder:
            artifacts = {
                "torch-eager": builder.build(BuildRequest(entry, Path.cwd(), None, plain, "torch")),
                "onnxruntime-cpu": builder.build(
                    BuildRequest(entry, Path.cwd(), None, plain, "onnx")
                ),
            }
        print(f"{threads} threads, {ROUNDS} rounds of {SECONDS} s, {time.strftime('%Y-%m-%d')}\n")
        titles = ["runtime", "batch", "Assay, ms", "bare, ms", "ratio"]
        print("|", " | ".join([*titles, "fresh bare, ms", "ratio", "its page faults a call"]), "|")
        print("|---|---|---|---|---|---|---|---|")
        for runtime, artifact in artifacts.items():
            for batch in (1, 8):
                print(compare(artifact, runtime, batch, threads, logs), flush=True)


if __name__ == "__main__":
    main()
