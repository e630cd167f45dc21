"""Tiny artifacts for the runtimes, made with onnx.helper, and workers that end with their test."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from compile.signature import Signature, TensorSpec
from runtimes.client import Worker

WIDTH = 32
LINEAR = Signature(
    inputs=(TensorSpec("x", "float32", ("batch", WIDTH)),),
    outputs=(TensorSpec("y", "float32", ("batch", WIDTH)),),
)


@pytest.fixture
def linear_signature() -> Signature:
    return LINEAR


@pytest.fixture
def onnx_artifact(tmp_path: Path) -> Callable[..., Path]:
    """(nodes, constants, signature, name=...) -> the folder of an ONNX artifact."""

    def make(
        nodes: list[onnx.NodeProto],
        constants: dict[str, np.ndarray],
        signature: Signature = LINEAR,
        name: str = "model",
        opset: int = 23,
    ) -> Path:
        return write_onnx(tmp_path / name, graph_of(nodes, constants, signature, opset), signature)

    return make


@pytest.fixture
def weight() -> np.ndarray:
    return np.random.default_rng(7).standard_normal((WIDTH, WIDTH)).astype(np.float32)


@pytest.fixture
def four_bit_halves() -> dict[str, np.ndarray]:
    """MatMulNBits constants of a 32 x 32 weight that is 0.5 everywhere, in one block a column.

    Every nibble is 9 and the implied zero point is 8: each weight is (9 - 8) * 0.5.
    """
    return {
        "q": np.full((WIDTH, 1, WIDTH // 2), 0x99, np.uint8),
        "s": np.full((WIDTH, 1), 0.5, np.float32),
    }


def write_onnx(folder: Path, model: onnx.ModelProto, signature: Signature) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    manifest = {"kind": "onnx", "signature": signature.to_json()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def graph_of(
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    signature: Signature,
    opset: int = 23,
) -> onnx.ModelProto:
    def info(spec: TensorSpec) -> onnx.ValueInfoProto:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype))
        return helper.make_tensor_value_info(spec.name, kind, list(spec.shape))

    graph = helper.make_graph(
        nodes,
        "tiny",
        [info(spec) for spec in signature.inputs],
        [info(spec) for spec in signature.outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@pytest.fixture
def linear_folder(tmp_path: Path, weight: np.ndarray) -> Path:
    """y = relu(x @ weight) @ weight, in float32."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w"], ["y"]),
    ]
    return write_onnx(tmp_path / "linear", graph_of(nodes, {"w": weight}, LINEAR), LINEAR)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """``Worker.start`` with a log folder; what the test leaves running is killed."""
    workers: list[Worker] = []

    def start_worker(runtime: str, **settings: Any) -> Worker:
        settings = {"log_dir": tmp_path / "logs", "timeout_s": 60.0, **settings}
        workers.append(Worker.start(runtime, **settings))
        return workers[-1]

    yield start_worker
    for worker in workers:
        worker.kill()
