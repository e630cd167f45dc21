"""Does Assay report what a bare loop takes? Its p50 over the bare loop's, interleaved in one run.

    python -m scripts.truth            # torch-eager and onnxruntime-cpu
    python -m scripts.truth --sizes    # onnxruntime-cpu from 0.08 to 220 ms
    python -m scripts.truth --device cuda:0 [--runtime torch-eager]

For a small encoder at several sizes (batch x sequence) a worker and two bare loops
(``scripts/bare_loop.py``) take turns in random order; all live in processes of their own and are
stopped between their turns. Two processes of one program differ by some per cent, so there are
several trios of fresh ones, one after the other. One loop has its C allocator settled as a worker
has (``runtimes/allocator.py``), the other leaves it as the process came. Below the table stands
what the harness itself costs: in the time that it reports, and beside it.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers

from compile.artifact import Artifact, Kind, Store
from compile.signature import Signature, TensorSpec
from quantize.recipe import Recipe
from runtimes.client import Worker
from runtimes.clocks import HostClock, clock_calls
from runtimes.fake import Behaviour, write_fake
from runtimes.session import SessionOptions
from scripts.bare_loop import BareLoop
from suites.builder import Builder, BuildRequest
from suites.measure.processes import between
from suites.suite_file import ModelEntry

TRIOS = 5
ROUNDS = 8
"""Of each trio."""
SECONDS = 0.25
TWO_SIZES = ((1, 128), (8, 128))
MANY_SIZES = ((1, 1), (1, 16), (1, 64), (2, 128), (8, 128), (56, 128))
GPU_SIZES = ((1, 128), (256, 128), (2048, 128))
EMPTY_CALLS = 100_000


@dataclass
class Turns:
    """Medians of a turn in milliseconds, in the order of the rounds, of one trio of processes."""

    mine: list[float]
    settled: list[float]
    fresh: list[float]
    faults: list[float]
    """Page faults of a call in the fresh loop."""


def compare(
    artifact: Artifact,
    model: str,
    runtime: str,
    size: tuple[int, int],
    options: SessionOptions,
    logs: Path,
) -> str:
    """One line: the medians of all three, and Assay's over each loop's. ``size`` is batch and
    sequence."""
    trios = [_trio(artifact, runtime, size, options, logs) for _ in range(TRIOS)]
    ours, theirs, freshly = (
        f"{np.median([turn for trio in trios for turn in getattr(trio, who)]):.4g}"
        for who in ("mine", "settled", "fresh")
    )
    return (
        f"| {model} | {runtime} | {size[0]} x {size[1]} | {ours} "
        f"| {theirs} | {_ratio([(t.mine, t.settled) for t in trios])} "
        f"| {freshly} | {_ratio([(t.mine, t.fresh) for t in trios])} "
        f"| {np.median([turn for trio in trios for turn in trio.faults]):,.0f} |"
    )


def _trio(
    artifact: Artifact, runtime: str, size: tuple[int, int], options: SessionOptions, logs: Path
) -> Turns:
    batch, sequence = size
    threads, device = options.threads, options.device
    feeds = artifact.signature.feeds({"batch": batch, "sequence": sequence})
    settled, fresh = (
        BareLoop(
            artifact.folder,
            runtime,
            batch,
            threads,
            sequence=sequence,
            settled=how,
            device=device,
        )
        for how in (True, False)
    )
    mine: list[float] = []
    with Worker.start(runtime, log_dir=logs, threads=threads) as worker:
        worker.open(artifact.folder, options)
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
    return Turns(mine, settled.medians, fresh.medians, fresh.faults)


def one_layer(folder: Path) -> ModelEntry:
    """A BERT of one layer: one token takes it a tenth of a millisecond."""
    config = transformers.BertConfig(
        vocab_size=4096,
        hidden_size=256,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=1024,
        num_labels=4,
    )
    torch.manual_seed(0)
    transformers.utils.logging.disable_progress_bar()
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    return ModelEntry(source=str(folder))


def own_costs(folder: Path) -> str:
    """What the clock adds to a call's time, what lies between two calls, and what a block costs.

    An empty call is timed as a worker times one; the block is asked of a worker whose call does
    nothing for a millisecond.
    """
    gc.disable()
    start = time.perf_counter_ns()
    empty = clock_calls(HostClock(), lambda: None, EMPTY_CALLS)
    between = (time.perf_counter_ns() - start - empty.sum()) / EMPTY_CALLS
    gc.enable()
    signature = Signature(
        (TensorSpec("x", "int64", ("batch",)),), (TensorSpec("y", "int64", ("batch",)),)
    )
    write_fake(folder, signature, Behaviour(latency_ms=1))
    with Worker.start("fake", log_dir=folder) as worker:
        worker.open(folder, SessionOptions())
        worker.prepare(signature.feeds({"batch": 1}))
        asked = []
        for _ in range(200):
            start = time.perf_counter_ns()
            sample = worker.sample(1, unrecorded=0)
            asked.append(time.perf_counter_ns() - start - int(sample.ns[0]))
    return (
        f"An empty call reads {np.median(empty):.0f} ns; between two calls lie {between:.0f} ns "
        f"more; a block of calls costs {np.median(asked) / 1e3:.0f} us of asking, waking and "
        "stopping."
    )


def _ratio(trios: Sequence[tuple[list[float], list[float]]]) -> str:
    """Of typical processes, with its 95 % interval: one draw a trio, the median over its rounds."""
    logs = [float(np.median(np.log(np.array(mine) / theirs))) for mine, theirs in trios]
    low, middle, high = np.exp(between(np.array(logs)))
    return f"{middle:.3f} [{low:.3f}, {high:.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--sizes", action="store_true", help="many sizes on onnxruntime-cpu")
    parser.add_argument("--device", default="cpu", help="cpu or cuda:N")
    parser.add_argument("--runtime", help="this one only")
    asked = parser.parse_args()
    options = SessionOptions(threads=len(os.sched_getaffinity(0)), device=asked.device)
    kinds: dict[str, Kind] = {"torch-eager": "torch", "onnxruntime-cpu": "onnx"}
    sizes: Sequence[tuple[int, int]] = TWO_SIZES
    if asked.device != "cpu":
        kinds = {"torch-eager": "torch", "onnxruntime-cuda": "onnx"}
        sizes = GPU_SIZES
    elif asked.sizes:
        kinds = {"onnxruntime-cpu": "onnx"}
        sizes = MANY_SIZES
    kinds = {name: kind for name, kind in kinds.items() if asked.runtime in (None, name)}
    small = ModelEntry(source="encoder-small", classes=4, train=False)
    plain = Recipe(name="fp32")
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder)
        with Builder(Store.default(), logs / "builder.log", lambda text, done: None) as builder:

            def built(entry: ModelEntry, kind: Kind) -> Artifact:
                return builder.build(BuildRequest(entry, Path.cwd(), None, plain, kind))

            cases = [
                (built(small, kind), "encoder-small", runtime, size)
                for runtime, kind in kinds.items()
                for size in sizes
            ]
            if asked.sizes and "onnxruntime-cpu" in kinds:
                shortest = built(one_layer(logs / "bert"), "onnx")
                cases.insert(0, (shortest, "one layer", "onnxruntime-cpu", (1, 1)))
        print(
            f"{options.threads} threads, {TRIOS} trios of processes, {ROUNDS} rounds of "
            f"{SECONDS} s each, {time.strftime('%Y-%m-%d')}\n"
        )
        titles = ["model", "runtime", "size", "Assay, ms", "bare, ms", "ratio"]
        print("|", " | ".join([*titles, "fresh bare, ms", "ratio", "its page faults a call"]), "|")
        print("|---" * 9 + "|")
        for artifact, model, runtime, size in cases:
            print(compare(artifact, model, runtime, size, options, logs), flush=True)
        print("\n" + own_costs(logs / "fake"))


if __name__ == "__main__":
    main()
