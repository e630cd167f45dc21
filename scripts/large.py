"""What it takes to quantize a decoder of a billion parameters to 4 bits: seconds and memory.

    python -m scripts.large                    # round-to-nearest, ours and ONNX Runtime's
    python -m scripts.large --gptq 512 1024 2048    # how GPTQ's time grows with the width

The decoder's linear layers have random weights (16 layers of width 2048, feed-forward 5632, 822 M
parameters in linear layers) and follow one another without attention, which no quantizer looks at.
Each quantizer runs in a process of its own on the same file, in turns; its peak resident set
(VmHWM) and wall time are printed, the audit of Assay's pass apart from it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from compile.graph import save_onnx

WIDTH, INNER, LAYERS, TURNS = 2048, 5632, 16, 3
BLOCK = 32
THEIRS = """
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
import onnx, sys
model = onnx.load(sys.argv[1] + "/model.onnx")
quantizer = MatMulNBitsQuantizer(model, block_size=32, is_symmetric=True, accuracy_level=4)
quantizer.process()
quantizer.model.save_model_to_file(sys.argv[2] + "/model.onnx", True)
"""
OURS = """
import sys
from pathlib import Path
from compile.graph import load_onnx, save_onnx
from quantize.int4 import quantize_int4
from quantize.linear import linear_layers
from quantize.passes import Int4
model = load_onnx(Path(sys.argv[1]))
selection = linear_layers(model)
quantize_int4(model, selection, [], Int4())
save_onnx(model, Path(sys.argv[2]))
"""
PASS = """
import sys
from pathlib import Path
from compile.artifact import Artifact, Made, Step, Store
from compile.signature import Signature, TensorSpec
from quantize.build import build
from quantize.recipe import load_recipe
import shutil
store = Store(Path(sys.argv[2]) / "store")
axes = ("batch", "sequence", int(sys.argv[3]))
signature = Signature((TensorSpec("x", "float32", axes),), (TensorSpec("y", "float32", axes),))
def make(folder):
    for file in Path(sys.argv[1]).iterdir():
        shutil.copy(file, folder)
    return Made("onnx", signature)
source = store.derive(Step("random", 1), None, make)
built = build(load_recipe("int4", Path()), source, "onnx", store, None, lambda text: None)
print(built.facts["snr_db"], file=sys.stderr)
"""


def decoder(folder: Path, width: int, inner: int, layers: int) -> int:
    """Write the graph; returns the number of its parameters."""
    random = np.random.default_rng(0)
    nodes: list[NodeProto] = []
    constants: list[TensorProto] = []

    def linear(source: str, rows: int, columns: int) -> str:
        name = f"w{len(constants)}"
        values = random.standard_normal((rows, columns), np.float32) / np.float32(rows**0.5)
        constants.append(numpy_helper.from_array(values, name))
        nodes.append(helper.make_node("MatMul", [source, name], [f"{name}_y"], name=name))
        return f"{name}_y"

    def node(op: str, *inputs: str) -> str:
        result = f"v{len(nodes)}"
        nodes.append(helper.make_node(op, inputs, [result], name=result))
        return result

    constants.append(numpy_helper.from_array(np.ones(width, np.float32), "gain"))
    x = "x"
    for _ in range(layers):
        n = node("RMSNormalization", x, "gain")
        parts = [linear(n, width, width) for _ in range(3)]
        mixed = node("Add", node("Add", *parts[:2]), parts[2])
        x = node("Add", x, linear(mixed, width, width))
        n = node("RMSNormalization", x, "gain")
        up = node("Mul", node("Sigmoid", linear(n, width, inner)), linear(n, width, inner))
        x = node("Add", x, linear(up, inner, width))
    nodes.append(helper.make_node("Identity", [x], ["y"], name="end"))
    axes = ["batch", "sequence", width]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, axes) for name in "xy"]
    graph = helper.make_graph(nodes, "decoder", info[:1], info[1:], constants)
    opsets = [helper.make_opsetid("", 23)]
    save_onnx(helper.make_model(graph, opset_imports=opsets, ir_version=10), folder)
    return sum(int(np.prod(tensor.dims)) for tensor in constants)


def measured(code: str, source: Path, folder: Path, *arguments: str) -> tuple[float, float, str]:
    """(seconds, peak GiB, the last line it printed) of a process that runs this code."""
    status = "\nprint(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code + status, str(source), str(folder), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(done.stderr)
    told = done.stderr.strip().splitlines() or [""]
    return seconds, int(done.stdout.split()[-1]) / 2**20, told[-1]


def compare() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as place:
        source = Path(place) / "source"
        source.mkdir()
        parameters = decoder(source, WIDTH, INNER, LAYERS)
        yield f"{parameters / 1e6:.0f} M parameters in linear layers, blocks of {BLOCK}\n"
        yield "| quantizer | seconds | peak, GiB |\n|---|---|---|"
        codes = {"ONNX Runtime's": THEIRS, "Assay's": OURS}
        found: dict[str, list[tuple[float, float, str]]] = {name: [] for name in codes}
        for _ in range(TURNS):
            for name, code in codes.items():
                with tempfile.TemporaryDirectory(dir=place) as folder:
                    found[name].append(measured(code, source, Path(folder)))
        for name, turns in found.items():
            seconds = sorted(turn[0] for turn in turns)
            yield (
                f"| {name} | {np.median(seconds):.1f} ({seconds[0]:.1f}, {seconds[-1]:.1f}) "
                f"| {max(turn[1] for turn in turns):.1f} |"
            )
        with tempfile.TemporaryDirectory(dir=place) as folder:
            seconds, peak, snr = measured(PASS, source, Path(folder), str(WIDTH))
        yield f"| Assay's pass with its audit ({snr} dB) | {seconds:.1f} | {peak:.1f} |"


def growth(widths: list[int]) -> Iterator[str]:
    """GPTQ of one square layer of each width."""
    from quantize.rounding.gptq import gptq

    random = np.random.default_rng(0)
    yield "| width | GPTQ of one layer, s | ns a weight |\n|---|---|---|"
    for width in widths:
        inputs = random.standard_normal((2 * width, width), np.float32)
        weight = random.standard_normal((width, width), np.float32)
        gram = inputs.T @ inputs / np.float32(len(inputs))
        start = time.perf_counter()
        gptq(weight, gram, BLOCK, symmetric=True)
        seconds = time.perf_counter() - start
        yield f"| {width} | {seconds:.2f} | {seconds / width**2 * 1e9:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--gptq", type=int, nargs="+", metavar="WIDTH")
    widths = parser.parse_args().gptq
    for line in growth(widths) if widths else compare():
        print(line, flush=True)


if __name__ == "__main__":
    main()
