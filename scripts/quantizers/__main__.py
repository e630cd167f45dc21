"""Assay's quantized builds beside those of other quantizers: same model, same runtime, in turns.

    tox run -e peers-quantize                      # makes the peers' environments
    python -m scripts.quantizers --environments FOLDER [--model decoder] [--only nncf]

The small trained classifier (or decoder) is exported to ONNX once. Every quantizer makes its build
of that file, with the same 128 calibration examples where it takes any, in a process of its own and
in its own environment. Then each build is scored on the whole test split (the drop is paired with
fp32's, with its 95 % interval) and timed on ONNX Runtime's CPU provider: all builds take turns in
random order, each in a worker that is stopped meanwhile, over several sets of fresh processes
(``suites/measure/processes.py``). A quantizer that fails is a row with its reason.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compile.artifact import Artifact, Store
from compile.errors import Unsupported
from compile.graph import load_onnx, save_onnx
from quantize.recipe import Recipe, load_recipe, recipe_from_table
from runtimes.client import Worker
from runtimes.failures import WorkerError
from runtimes.session import SessionOptions
from scripts.quantizers.peer import ENVIRONMENTS, METHODS
from suites.builder import Builder, BuildFailed, BuildRequest
from suites.measure.processes import between
from suites.scoring import Scored, score
from suites.suite_file import ModelEntry
from suites.tasks.registry import load_task
from suites.tasks.task import Task

PEER = Path(__file__).with_name("peer.py")
EXAMPLES = 128
SETS, ROUNDS, SECONDS = 5, 6, 0.1
RUNTIME = "onnxruntime-cpu"
SHIPPED = (
    "int8-dynamic",
    "int8-static",
    "int8-smooth",
    "int8-qat",
    "int4",
    "int4-hqq",
    "int4-gptq",
    "int4-awq",
)
STATIC = {"pass": "int8", "mode": "static", "activations": "s8"}
MORE = {
    "int8-smooth, s8": [{"pass": "smooth", "activations": "s8"}, STATIC],
    "int8-static, attention": [{"pass": "int8", "mode": "static", "attention": True}],
    # What is faster where many tokens are computed at once; peers that name no level have it.
    "int4-gptq, level 1": [{"pass": "int4", "rounding": "gptq", "accuracy_level": 1}],
}
"""Recipes beside the shipped ones: their passes."""
MODELS = {
    "encoder": (
        ModelEntry(source="encoder-small"),
        "classification",
        {"batch": 1, "sequence": 128},
    ),
    "decoder": (
        ModelEntry(source="decoder-small"),
        "causal-lm",
        {"batch": 1, "sequence": 128, "past": 0},
    ),
}


@dataclass
class Build:
    """One quantizer's result, or why there is none."""

    name: str
    folder: Path | None = None
    seconds: float | None = None
    reason: str = ""
    drop: str = "–"
    ratio: str = "–"


def make(folder: Path, name: str) -> Path:
    """The interpreter of a peer's environment; made where it is missing."""
    python = folder / name / "bin" / "python"
    if not python.exists():
        venv.create(folder / name, with_pip=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", *ENVIRONMENTS[name]], check=True
        )
    return python


def quantized(method: str, python: str, source: Path, calibration: Path, place: Path) -> Build:
    """A peer's build of the file, as an artifact's folder."""
    folder = place / method.replace(" ", "-")
    folder.mkdir()
    out = folder / "model.onnx"
    start = time.perf_counter()
    try:
        done = subprocess.run(
            [python, str(PEER), method, str(source / "model.onnx"), str(calibration), str(out)],
            capture_output=True,
            text=True,
            timeout=900,
            cwd=folder,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Build(method, reason="not done after 900 s")
    seconds = time.perf_counter() - start
    if done.returncode or not out.exists():
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no output"]
        return Build(method, reason=lines[-1][:120])
    shutil.copy(source / "manifest.json", folder)
    return Build(method, folder, seconds)


def scored(build: Build, task: Task, source: Artifact, threads: int) -> Scored:
    assert build.folder is not None
    with Worker.start(RUNTIME, log_dir=build.folder, threads=threads) as worker:
        worker.open(build.folder, SessionOptions(threads=threads))
        return score(task.for_artifact(source), worker.answer)


def timed(builds: Sequence[Build], source: Artifact, sizes: dict[str, int], threads: int) -> None:
    """Fill in each build's time over that of the first one, fp32."""
    feeds = source.signature.feeds(sizes)
    found: dict[str, list[float]] = {build.name: [] for build in builds}
    for _ in range(SETS):
        workers = {}
        for build in builds:
            assert build.folder is not None
            worker = Worker.start(RUNTIME, log_dir=build.folder, threads=threads)
            worker.open(build.folder, SessionOptions(threads=threads))
            worker.prepare(feeds)
            workers[build.name] = worker
        calls = {
            name: max(3, int(SECONDS / (np.median(worker.sample(10).ns) / 1e9)))
            for name, worker in workers.items()
        }
        turns: dict[str, list[float]] = {name: [] for name in workers}
        for _ in range(ROUNDS):
            order = list(workers)
            random.shuffle(order)
            for name in order:
                sample = workers[name].sample(calls[name], unrecorded=3)
                turns[name].append(float(np.median(np.log(sample.ns))))
        for worker in workers.values():
            worker.close()
        first = np.array(turns[builds[0].name])
        for name, logs in turns.items():
            found[name].append(float(np.median(np.array(logs) - first)))
    for build in builds[1:]:
        low, middle, high = np.exp(-np.array(between(np.array(found[build.name])))[::-1])
        build.ratio = f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def run(model: str, environments: Path, only: str) -> Iterator[str]:
    entry, kind, sizes = MODELS[model]
    threads = len(os.sched_getaffinity(0))
    task = load_task(kind, Path.cwd(), None)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        with Builder(Store.default(), folder / "builder.log", lambda text, done: None) as builder:

            def built(recipe: Recipe) -> Artifact:
                return builder.build(BuildRequest(entry, Path.cwd(), kind, recipe, "onnx"))

            source = built(Recipe(name="fp32"))
            builds = [Build("fp32", source.folder)]
            ours = [load_recipe(name, Path()) for name in SHIPPED]
            for name, passes in MORE.items():
                table = {"passes": passes, "tolerance": {"min_snr_db": 5.0}}
                ours.append(recipe_from_table(name, table, "here"))
            for recipe in ours:
                start = time.perf_counter()
                name = f"assay {recipe.name}"
                try:
                    made = built(recipe)
                    builds.append(Build(name, made.folder, time.perf_counter() - start))
                except BuildFailed as error:
                    builds.append(Build(name, reason=str(error)[:120]))
        calibration = folder / "calibration"
        calibration.mkdir()
        examples = task.for_artifact(source).calibration(EXAMPLES)
        for number, feeds in enumerate(examples):
            np.savez(calibration / f"{number:04}.npz", **feeds)
        plain = folder / "plain"
        plain.mkdir()
        save_onnx(load_onnx(source.folder), plain, limit=1 << 40)
        shutil.copy(source.folder / "manifest.json", plain)
        for method in METHODS:
            package = method.split()[0]
            if only and package != only:
                continue
            try:
                python = make(environments, package) if ENVIRONMENTS[package] else sys.executable
            except (subprocess.CalledProcessError, OSError) as error:
                builds.append(
                    Build(method, reason=f"its environment cannot be made: {error}"[:120])
                )
                continue
            builds.append(quantized(method, str(python), plain, calibration, folder))
            print(f"{method}: {builds[-1].reason or 'made'}", file=sys.stderr, flush=True)
        reference = scored(builds[0], task, source, threads)
        for build in [b for b in builds[1:] if b.folder]:
            try:
                got = scored(build, task, source, threads)
            except (WorkerError, Unsupported, ValueError) as error:
                build.folder, build.reason = None, str(error)[:120]
                continue
            build.drop = drop(task, reference, got)
            print(f"{build.name}: {build.drop}", file=sys.stderr, flush=True)
        whole = [build for build in builds if build.folder]
        timed(whole, source, sizes, threads)
        yield f"{model}, {RUNTIME}, {threads} threads, {json.dumps(sizes)}\n"
        yield "| build | seconds | MiB | drop | times as fast as fp32 |\n|---|---|---|---|---|"
        for build in builds:
            if build.folder is None:
                yield f"| {build.name} | – | – | failed: {build.reason} | – |"
                continue
            size = sum(f.stat().st_size for f in build.folder.glob("model.onnx*")) / 2**20
            took = "–" if build.seconds is None else f"{build.seconds:.1f}"
            yield f"| {build.name} | {took} | {size:.2f} | {build.drop} | {build.ratio} |"


def drop(task: Task, reference: Scored, got: Scored) -> str:
    """Of accuracy in points, or the rise of bits per byte in per cent, with its 95 % interval."""
    found = task.drop(reference.examples, got.examples)
    unit = "points" if task.metric == "accuracy" else "%"
    return f"{100 * found.drop:.2f} [{100 * found.low:.2f}, {100 * found.high:.2f}] {unit}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--environments", type=Path, required=True, help="the peers', a folder")
    parser.add_argument("--model", choices=sorted(MODELS), default="encoder")
    parser.add_argument("--only", default="", help="one peer")
    asked = parser.parse_args()
    for line in run(asked.model, asked.environments.resolve(), asked.only):
        print(line, flush=True)


if __name__ == "__main__":
    main()
