"""Does Assay report what a bare loop takes? Its p50 over the bare loop's, interleaved in one run.

    python -m scripts.truth

For a small encoder at 1 x 128 and 8 x 128 on torch-eager and onnxruntime-cpu, worker and bare loop
take turns in random order; both live in processes of their own for the whole run. The bare loop
is what anybody would write: load, call, ``perf_counter_ns`` around each call. Between turns it
waits for its pools to fall asleep, as a worker does, so that neither spins under the other.
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
from runtimes.client import THREAD_VARIABLES, Worker
from runtimes.session import SessionOptions
from suites.build import Builder, BuildRequest
from suites.suite_file import ModelEntry

ROUNDS = 30
SECONDS = 0.25
BARE = """
import sys, time, numpy as np
folder, runtime, batch, sequence, threads = sys.argv[1:6]
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
    for _ in range(int(line)):
        start = time.perf_counter_ns()
        call()
        times.append(time.perf_counter_ns() - start)
    time.sleep(0.4)
    print(*times, flush=True)
"""


def ratio(artifact: Artifact, runtime: str, batch: int, threads: int, logs: Path) -> str:
    """One line: both medians, and the median over rounds of Assay's over the bare loop's."""
    feeds = artifact.signature.feeds({"batch": batch, "sequence": 128})
    bare = subprocess.Popen(
        [
            sys.executable,
            *("-c", BARE, str(artifact.folder), runtime, str(batch), "128", str(threads)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))},
    )
    assert bare.stdin is not None
    assert bare.stdout is not None
    bare.stdout.readline()
    mine, theirs = [], []
    with bare, Worker.start(runtime, log_dir=logs, threads=threads) as worker:
        worker.open(artifact.folder, SessionOptions(threads=threads))
        worker.prepare(feeds)
        calls = max(3, int(SECONDS / (np.median(worker.sample(20).ns) / 1e9)))

        def assay() -> None:
            mine.append(np.median(worker.sample(calls, unrecorded=3).ns) / 1e6)

        def loop() -> None:
            assert bare.stdin is not None
            assert bare.stdout is not None
            print(calls, file=bare.stdin, flush=True)
            theirs.append(np.median(np.array(bare.stdout.readline().split(), float)) / 1e6)

        for _ in range(ROUNDS):
            turns = [assay, loop]
            random.shuffle(turns)
            for turn in turns:
                turn()
        bare.stdin.close()
    ratios = np.sort(np.array(mine) / np.array(theirs))
    middle = f"{np.median(ratios):.3f} (quartiles {ratios[ROUNDS // 4]:.3f}"
    return (
        f"| {runtime} | {batch} x 128 | {np.median(mine):.2f} | {np.median(theirs):.2f} "
        f"| {middle}, {ratios[3 * ROUNDS // 4]:.3f}) |"
    )


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
        print("| runtime | batch | Assay p50, ms | bare p50, ms | ratio by rounds |")
        print("|---|---|---|---|---|")
        for runtime, artifact in artifacts.items():
            for batch in (1, 8):
                print(ratio(artifact, runtime, batch, threads, logs), flush=True)


if __name__ == "__main__":
    main()
