"""Does Assay report what a bare loop takes? Its p50 over the bare loop's, interleaved in one run.

    python -m scripts.truth

For a small encoder at 1 x 128 and 8 x 128 on torch-eager and onnxruntime-cpu, a worker and two bare
loops take turns in random order; all live in processes of their own for the whole run. The bare
loop is what anybody would write: load, call, ``perf_counter_ns`` around each call. One has its C
allocator settled as a worker has (``runtimes/allocator.py``), the other leaves it as the process
came. Between turns a loop waits for its pools to fall asleep, so that it spins under nobody.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from compile.artifact import Artifact, Store
from quantize.recipe import Recipe
from runtimes.client import Worker
from runtimes.process import THREAD_VARIABLES
from runtimes.session import SessionOptions
from suites.builder import Builder, BuildRequest
from suites.suite_file import ModelEntry

ROUNDS = 30
SECONDS = 0.25
BARE = """
import resource, sys, time, numpy as np
folder, runtime, batch, sequence, threads, settled = sys.argv[1:7]
if settled == "settled":
    from runtimes import allocator
    allocator.settle()
shape = (int(batch), int(sequence))
ids = np.random.default_rng(0).integers(0, 4096, shape)
feeds = {"input_ids": ids, "attention_mask": np.ones(shape, np.int64),
         "token_type_ids": np.zeros(shape, np.int64)}
if runtime == "onnxruntime-cpu":
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(threads)
    session = onnxruntime.InferenceSession(folder + "/model.onnx", options)
    call = lambda: session.run(None, feeds)
else:
    import torch
    from pathlib import Path
    from compile.models.model import load_model
    module = load_model(Path(folder)).module
    tensors = [torch.from_numpy(array) for array in feeds.values()]
    def call():
        with torch.inference_mode():
            return module(*tensors)
for _ in range(20):
    call()
print("ready", flush=True)
for line in sys.stdin:
    times = []
    for _ in range(3):
        call()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(int(line)):
        start = time.perf_counter_ns()
        call()
        times.append(time.perf_counter_ns() - start)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    time.sleep(0.4)
    print(faults / int(line), *times, flush=True)
"""


class BareLoop:
    """The loop in a process of its own, which makes as many calls as it is told to."""

    def __init__(
        self, artifact: Artifact, runtime: str, batch: int, threads: int, settled: bool
    ) -> None:
        state = "settled" if settled else "as it came"
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-c", BARE, str(artifact.folder), runtime),
                *(str(batch), "128", str(threads), state),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))},
        )
        self.medians: list[float] = []
        """Milliseconds, one for each turn."""
        self.faults: list[float] = []
        """Page faults of a call, one for each turn."""
        self._line()

    def turn(self, calls: int) -> None:
        assert self._process.stdin is not None
        print(calls, file=self._process.stdin, flush=True)
        faults, *times = map(float, self._line().split())
        self.faults.append(faults)
        self.medians.append(float(np.median(times)) / 1e6)

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


def compare(artifact: Artifact, runtime: str, batch: int, threads: int, logs: Path) -> str:
    """One line: the medians of all three, and Assay's over each loop's, by rounds."""
    feeds = artifact.signature.feeds({"batch": batch, "sequence": 128})
    settled, fresh = (BareLoop(artifact, runtime, batch, threads, how) for how in (True, False))
    mine: list[float] = []
    with Worker.start(runtime, log_dir=logs, threads=threads) as worker:
        worker.open(artifact.folder, SessionOptions(threads=threads))
        worker.prepare(feeds)
        calls = max(3, int(SECONDS / (np.median(worker.sample(20).ns) / 1e9)))

        def assay(calls: int) -> None:
            mine.append(float(np.median(worker.sample(calls, unrecorded=3).ns)) / 1e6)

        turns = [assay, settled.turn, fresh.turn]
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
