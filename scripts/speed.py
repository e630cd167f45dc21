"""Does the yardstick see what a model feels? Both in turns, on one machine.

    python -m scripts.speed

A worker calls a small encoder at 1 x 128 on ONNX Runtime in blocks of some 0.1 s, and the yardstick
(``suites/measure/meters/speed.py``) is read before and after each, as the meter does. Printed are
the blocks' medians where it says that the machine was itself, and where it says that it was slow.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from compile.artifact import Store
from quantize.recipe import Recipe
from runtimes.client import Worker
from runtimes.session import SessionOptions
from suites.builder import Builder, BuildRequest
from suites.measure.meters.speed import SLOW, Yardstick
from suites.suite_file import ModelEntry

CALLS = 16
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=60)
    seconds = parser.parse_args().seconds
    threads = len(os.sched_getaffinity(0))
    yardstick = Yardstick(threads)
    entry = ModelEntry(source="encoder-small", classes=4, train=False)
    readings, medians, costs = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder)
        with Builder(Store.default(), logs / "builder.log", lambda text, done: None) as builder:
            request = BuildRequest(entry, Path.cwd(), None, Recipe(name="fp32"), "onnx")
            artifact = builder.build(request)
        with Worker.start("onnxruntime-cpu", log_dir=logs, threads=threads) as worker:
            worker.open(artifact.folder, SessionOptions(threads=threads))
            worker.prepare(artifact.signature.feeds({"batch": 1, "sequence": 128}))
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                start = time.perf_counter()
                before = yardstick.read()
                costs.append(time.perf_counter() - start)
                medians.append(float(np.median(worker.sample(CALLS, 1).ns)) / 1e6)
                readings.append((before, yardstick.read()))
    # Only now it is known what the machine reaches.
    speeds = np.array([min(map(yardstick.speed, ends)) for ends in readings])
    times = np.array(medians)
    print(f"{threads} threads, {len(times)} blocks, {time.strftime('%Y-%m-%d')}")
    print(f"a reading takes {np.median(costs) * 1e3:.1f} ms\n")
    print(
        "| the machine | blocks | " + " | ".join(f"{q:.0%} of them, ms" for q in QUANTILES) + " |"
    )
    print("|---|---|" + "---|" * len(QUANTILES))
    for name, part in (("itself", times[speeds >= SLOW]), ("slow", times[speeds < SLOW])):
        told = [f"{value:.2f}" for value in np.quantile(part, QUANTILES)] if part.size else []
        print(f"| {name} | {part.size} | " + " | ".join(told) + " |")


if __name__ == "__main__":
    main()
