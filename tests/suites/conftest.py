"""A model whose answer is known, and suites that run it on the fake runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

CLASSES = 4


@pytest.fixture(scope="session")
def ramp_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file that answers 0, 1, 2, 3 whatever it is asked: what a fake session answers."""
    weight = numpy_helper.from_array(np.zeros((8, CLASSES), np.float32), "weight")
    bias = numpy_helper.from_array(np.arange(CLASSES, dtype=np.float32), "bias")
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "weight"], ["product"]),
            helper.make_node("Add", ["product", "bias"], ["y"]),
        ],
        "ramp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", CLASSES])],
        [weight, bias],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
    path = tmp_path_factory.mktemp("model") / "ramp.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all runs of the session: what one test builds the next one finds."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def suite_file(tmp_path: Path, ramp_model: Path, home: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes a suite of the ramp model. ``options`` are lines of ``[runtimes.fake]``."""
    monkeypatch.setenv("ASSAY_HOME", str(home))

    def write(options: str = "", runtimes: str = '["fake"]', more: str = "") -> Path:
        path = tmp_path / "fakes.toml"
        path.write_text(f"""
threads = 1
reference = "onnxruntime-cpu"
[matrix]
model = ["ramp"]
runtime = {runtimes}
workload = ["one", "two"]
[models.ramp]
source = "{ramp_model}"
[workloads.one]
batch = 1
[workloads.two]
batch = 2
[measure]
processes = 1
max_seconds = 1.0
[runtimes.fake]
timeout = 20.0
{options}
{more}
""")
        return path

    return write
