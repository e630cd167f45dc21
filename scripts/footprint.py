"""How much memory ``assay run`` itself takes, beside its workers: few cells against many.

    python -m scripts.footprint

Runs suites of fake sessions, each in a process of its own, and prints the largest resident set that
this process saw (VmHWM, which every run keeps in ``run.json``): a few short cells, then many long
ones. If memory grew with cells or samples, the last line would show it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HOUSE = Path(__file__).resolve().parent.parent
SUITE = """
threads = 1
reference = "onnxruntime-cpu"
[matrix]
model = ["ramp"]
runtime = ["fake"]
workload = [{names}]
[models.ramp]
source = "ramp.onnx"
[measure]
precision = 0.0001
max_seconds = 60
max_samples = {samples}
first_look = {samples}
[runtimes.fake]
latency_ms = 0
{workloads}
"""


def ramp(path: Path) -> None:
    """An ONNX file that answers 0, 1, 2, 3, which is what a fake session answers."""
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("Add", ["h", "b"], ["y"]),
        ],
        "ramp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [
            numpy_helper.from_array(np.zeros((8, 4), np.float32), "w"),
            numpy_helper.from_array(np.arange(4, dtype=np.float32), "b"),
        ],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11), path
    )


def peak_mib(folder: Path, cells: int, samples: int) -> float:
    """Largest resident set of ``assay run`` for so many cells of so many samples each."""
    names = [f"w{number}" for number in range(cells)]
    suite = folder / f"cells-{cells}.toml"
    suite.write_text(
        SUITE.format(
            names=", ".join(f'"{name}"' for name in names),
            samples=samples,
            workloads="\n".join(f"[workloads.{n}]\nbatch = {i + 1}" for i, n in enumerate(names)),
        )
    )
    command = [sys.executable, "-m", "assay", "run", str(suite), "--out", str(folder / suite.stem)]
    subprocess.run([*command, "--fresh"], cwd=HOUSE, check=True, capture_output=True)
    run = json.loads((folder / suite.stem / "run.json").read_text())
    return run["assay_peak_bytes"] / 2**20


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ramp(folder / "ramp.onnx")
        print("| cells | samples a cell | peak of assay run, MiB |")
        print("|---|---|---|")
        for cells, samples in ((2, 1_000), (2, 50_000), (40, 1_000), (40, 50_000)):
            print(f"| {cells} | {samples:,} | {peak_mib(folder, cells, samples):.0f} |", flush=True)


if __name__ == "__main__":
    main()
