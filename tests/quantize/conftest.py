"""Small graphs and models that every pass is tried on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from compile.artifact import Artifact, Made, Step, Store
from compile.data import Batch
from compile.graph import infer_shapes, save_onnx
from compile.models.config import TransformerConfig
from compile.models.model import save_model, transformer_model
from compile.signature import Feeds, Signature, TensorSpec

WIDTH, INNER, ROWS = 96, 128, 40


class Examples:
    """Synthetic data: the class of a sequence is its first token, modulo the classes."""

    def __init__(
        self,
        signature: Signature,
        fingerprint: str = "examples",
        scale: float = 1,
        held: int = 1000,
    ) -> None:
        """``held`` is how many examples there are to calibrate on."""
        self.held = held
        self.signature = signature
        self.fingerprint = fingerprint
        self.scale = scale

    def calibration_examples(self, most: int) -> int:
        return min(most, self.held)

    def calibration(self, examples: int) -> Iterator[Feeds]:
        assert examples <= self.held
        for seed in range(examples):
            feeds = self.signature.feeds({"batch": 1, "sequence": 3 + 5 * (seed % 4)}, seed)
            yield {
                name: (value * self.scale).astype(value.dtype) if value.dtype.kind == "f" else value
                for name, value in feeds.items()
            }

    def training(self, batch_size: int, seed: int) -> Iterator[Batch]:
        classes = self.signature.outputs[0].shape[-1]
        while True:
            feeds = self.signature.feeds({"batch": batch_size, "sequence": 12}, seed)
            yield Batch(feeds, feeds["input_ids"][:, 0] % classes)
            seed += 1


def ffn_graph(op: str = "MatMul", seed: int = 0) -> onnx.ModelProto:
    """y = norm(x + down(gelu(up(x)))) with weights of unlike scales by column."""
    random = np.random.default_rng(seed)

    def weight(name: str, rows: int, columns: int) -> TensorProto:
        scales = np.exp(random.standard_normal(columns)) / np.sqrt(rows)
        values = random.standard_normal((rows, columns)) * scales
        return numpy_helper.from_array(values.astype(np.float32), name)

    def bias(name: str, size: int) -> TensorProto:
        return numpy_helper.from_array(random.standard_normal(size).astype(np.float32), name)

    def linear(source: str, name: str, result: str) -> list[onnx.NodeProto]:
        tensors = [f"{name}.weight", f"{name}.bias"]
        if op == "Gemm":
            return [helper.make_node("Gemm", [source, *tensors], [result], name=name)]
        product = helper.make_node("MatMul", [source, tensors[0]], [f"{name}_mm"], name=name)
        add = helper.make_node("Add", [f"{name}_mm", tensors[1]], [result], name=f"{name}_add")
        return [product, add]

    axes = ["batch", WIDTH] if op == "Gemm" else ["batch", "sequence", WIDTH]
    graph = helper.make_graph(
        [
            *linear("x", "up", "wide"),
            helper.make_node("Gelu", ["wide"], ["active"], name="gelu"),
            *linear("active", "down", "narrow"),
            helper.make_node("Add", ["x", "narrow"], ["sum"], name="residual"),
            helper.make_node(
                "LayerNormalization", ["sum", "norm.weight", "norm.bias"], ["y"], name="norm"
            ),
        ],
        "ffn",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, axes)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, axes)],
        [
            weight("up.weight", WIDTH, INNER),
            bias("up.bias", INNER),
            weight("down.weight", INNER, WIDTH),
            bias("down.bias", WIDTH),
            bias("norm.weight", WIDTH),
            bias("norm.bias", WIDTH),
        ],
    )
    return finished(graph)


def flat_graph() -> onnx.ModelProto:
    """y = x @ w + b for x of two axes, which ONNX Runtime joins to a Gemm before anything else."""
    random = np.random.default_rng(2)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["product"], name="head"),
            helper.make_node("Add", ["product", "b"], ["y"], name="head_add"),
        ],
        "flat",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", INNER])],
        [
            numpy_helper.from_array(random.standard_normal((WIDTH, INNER)).astype(np.float32), "w"),
            numpy_helper.from_array(random.standard_normal(INNER).astype(np.float32), "b"),
        ],
    )
    return finished(graph)


def tied_graph() -> onnx.ModelProto:
    """logits = embed(ids) @ embed^T, the transpose unfolded as the canonical form has it."""
    random = np.random.default_rng(1)
    table = random.standard_normal((ROWS, WIDTH)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "ids"], ["rows"], name="embed"),
            helper.make_node("MatMul", ["rows", "head"], ["y"], name="head"),
        ],
        "tied",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "sequence"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "sequence", ROWS])],
        [
            numpy_helper.from_array(table, "table"),
            numpy_helper.from_array(np.ascontiguousarray(table.T), "head"),
        ],
    )
    return finished(graph)


def finished(graph: onnx.GraphProto) -> onnx.ModelProto:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)])
    model.ir_version = 10
    infer_shapes(model)
    onnx.checker.check_model(model)
    return model


def run(model: onnx.ModelProto | Path, feeds: Feeds) -> np.ndarray:
    """First output in ONNX Runtime."""
    content = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


FFN = Signature(
    (TensorSpec("x", "float32", ("batch", "sequence", WIDTH)),),
    (TensorSpec("y", "float32", ("batch", "sequence", WIDTH)),),
)
FLAT = Signature(
    (TensorSpec("x", "float32", ("batch", WIDTH)),),
    (TensorSpec("y", "float32", ("batch", INNER)),),
)
TIED = Signature(
    (TensorSpec("ids", "int64", ("batch", "sequence"), high=ROWS),),
    (TensorSpec("y", "float32", ("batch", "sequence", ROWS)),),
)


class Graphs:
    """The graphs, their signatures, and the way into the store."""

    ffn = staticmethod(ffn_graph)
    tied = staticmethod(tied_graph)
    flat = staticmethod(flat_graph)
    finished = staticmethod(finished)
    run = staticmethod(run)
    FFN, TIED, FLAT = FFN, TIED, FLAT

    def __init__(self, store: Store) -> None:
        self.store = store

    def put(self, model: onnx.ModelProto, signature: Signature = FFN) -> Artifact:
        def make(folder: Path) -> Made:
            save_onnx(model, folder)
            return Made("onnx", signature)

        content = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
        return self.store.derive(Step("test", 1, {"content": content}), None, make)


@pytest.fixture
def graphs(store: Store) -> Graphs:
    return Graphs(store)


@pytest.fixture
def examples() -> type[Examples]:
    return Examples


@pytest.fixture
def classifier(store: Store) -> Artifact:
    """An encoder of four layers with random weights, as a torch artifact."""
    config = TransformerConfig(
        kind="encoder",
        vocabulary=64,
        max_sequence=32,
        width=64,
        layers=4,
        heads=4,
        kv_heads=4,
        ffn=128,
        segments=2,
        classes=4,
    )
    model = transformer_model("tiny", config)
    with torch.no_grad():
        # Weights as large as trained ones: fresh layers hardly change what passes through them.
        for layer in model.module.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.weight.mul_(6)
    return store.derive(Step("test-torch", 1), None, lambda folder: save_model(model, folder))
