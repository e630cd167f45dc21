from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from compile.errors import InputError, Unsupported
from compile.signature import Signature, TensorSpec
from runtimes.client import Worker
from runtimes.session import SessionOptions

ATTENTION = Signature(
    inputs=(
        TensorSpec("q", "float32", ("batch", 2, "sequence", 8)),
        TensorSpec("k", "float32", ("batch", 2, "sequence", 8)),
        TensorSpec("v", "float32", ("batch", 2, "sequence", 8)),
    ),
    outputs=(TensorSpec("y", "float32", ("batch", 2, "sequence", 8)),),
)
CACHE = Signature(
    inputs=(
        TensorSpec("past_key", "float32", ("batch", "past", 4)),
        TensorSpec("key", "float32", ("batch", "sequence", 4)),
    ),
    outputs=(TensorSpec("present_key", "float32", ("batch", "total", 4)),),
)


def test_run_agrees_with_float64_numpy_and_computes_in_f32(
    start: Callable[..., Worker],
    linear_folder: Path,
    linear_signature: Signature,
    weight: np.ndarray,
) -> None:
    worker = start("openvino")
    worker.open(linear_folder)
    exact = weight.astype(np.float64)
    for batch in (1, 5):
        feeds = linear_signature.feeds({"batch": batch}, seed=batch)
        expected = np.maximum(feeds["x"].astype(np.float64) @ exact, 0) @ exact
        np.testing.assert_allclose(worker.run(feeds)["y"], expected, rtol=1e-4, atol=1e-4)
    contract = worker.contract()
    assert (contract.precision, contract.threads) == ("f32", 1)
    proof = worker.proof()
    assert proof.integer_kernels == 0
    assert sum(count for name, count in proof.kernels.items() if "FullyConnected" in name) == 2


def test_attention_operator_of_opset_23_agrees_with_float64_numpy(
    start: Callable[..., Worker], onnx_artifact: Callable[..., Path]
) -> None:
    nodes = [helper.make_node("Attention", ["q", "k", "v"], ["y"])]
    worker = start("openvino")
    worker.open(onnx_artifact(nodes, {}, ATTENTION))
    feeds = ATTENTION.feeds({"batch": 2, "sequence": 5})
    q, k, v = (feeds[name].astype(np.float64) for name in "qkv")
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(8)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    expected = weights / weights.sum(-1, keepdims=True) @ v
    np.testing.assert_allclose(worker.run(feeds)["y"], expected, atol=1e-5)


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime-cpu"])
def test_an_empty_cache_is_taken_when_past_is_0(
    start: Callable[..., Worker], onnx_artifact: Callable[..., Path], runtime: str
) -> None:
    nodes = [helper.make_node("Concat", ["past_key", "key"], ["present_key"], axis=1)]
    worker = start(runtime)
    worker.open(onnx_artifact(nodes, {}, CACHE))
    for past in (0, 3):
        feeds = CACHE.feeds({"batch": 2, "past": past, "sequence": 1})
        expected = np.concatenate([feeds["past_key"], feeds["key"]], axis=1)
        np.testing.assert_array_equal(worker.run(feeds)["present_key"], expected)


def test_proof_counts_integer_kernels_when_the_graph_is_qdq_u8s8(
    start: Callable[..., Worker],
    onnx_artifact: Callable[..., Path],
    linear_signature: Signature,
    weight: np.ndarray,
) -> None:
    scale = np.float32(np.abs(weight).max() / 127)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w8", "ws", "wz"], ["wd"]),
        helper.make_node("MatMul", ["xd", "wd"], ["y"]),
    ]
    constants = {
        "xs": np.asarray(np.float32(8 / 255)),
        "xz": np.asarray(np.uint8(128)),
        "w8": np.round(weight / scale).astype(np.int8),
        "ws": np.asarray(scale),
        "wz": np.asarray(np.int8(0)),
    }
    worker = start("openvino")
    worker.open(onnx_artifact(nodes, constants))
    feeds = linear_signature.feeds({"batch": 4})
    exact = feeds["x"].astype(np.float64) @ weight.astype(np.float64)
    assert np.linalg.norm(worker.run(feeds)["y"] - exact) / np.linalg.norm(exact) < 0.05
    assert worker.proof().integer_kernels == 1


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime-cpu"])
def test_open_raises_input_error_when_the_model_is_truncated(
    start: Callable[..., Worker], linear_folder: Path, runtime: str
) -> None:
    model = linear_folder / "model.onnx"
    model.write_bytes(model.read_bytes()[:-100])
    with pytest.raises(InputError, match="not a valid ONNX model"):
        start(runtime).open(linear_folder)


def test_open_raises_unsupported_naming_the_operator_when_it_cannot_be_converted(
    start: Callable[..., Worker], onnx_artifact: Callable[..., Path]
) -> None:
    nodes = [helper.make_node("NoSuchOperator", ["x"], ["y"], domain="com.microsoft")]
    with pytest.raises(Unsupported, match="NoSuchOperator"):
        start("openvino").open(onnx_artifact(nodes, {}))


def test_open_raises_unsupported_when_another_attention_is_asked(
    start: Callable[..., Worker], linear_folder: Path
) -> None:
    with pytest.raises(Unsupported, match="'sdpa:math'"):
        start("openvino").open(linear_folder, SessionOptions(attention="sdpa:math"))


@pytest.mark.parametrize(("group", "tolerance", "integer"), [(0, 1e-5, 0), (32, 0.1, 1)])
def test_activations_beside_4_bit_weights_stay_float_unless_dynamic_quantization_is_asked(
    start: Callable[..., Worker],
    onnx_artifact: Callable[..., Path],
    linear_signature: Signature,
    four_bit_halves: dict[str, np.ndarray],
    group: int,
    tolerance: float,
    integer: int,
) -> None:
    sizes = {"K": 32, "N": 32, "bits": 4, "block_size": 32}
    node = helper.make_node("MatMulNBits", ["x", "q", "s"], ["y"], domain="com.microsoft", **sizes)
    worker = start("openvino")
    options = SessionOptions(extra={"dynamic_quantization_group": group})
    worker.open(onnx_artifact([node], four_bit_halves), options)
    feeds = linear_signature.feeds({"batch": 2})
    row = 0.5 * feeds["x"].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(
        worker.run(feeds)["y"], np.broadcast_to(row, (2, 32)), atol=tolerance
    )
    assert worker.proof().integer_kernels == integer


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime-cpu"])
def test_open_refuses_external_data_outside_of_the_folder(
    start: Callable[..., Worker],
    linear_folder: Path,
    weight: np.ndarray,
    runtime: str,
) -> None:
    (linear_folder.parent / "outside.data").write_bytes(weight.tobytes())
    model = onnx.load(linear_folder / "model.onnx")
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "../outside.data"), ("length", str(weight.nbytes))):
        tensor.external_data.add(key=key, value=value)
    (linear_folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="external data"):
        start(runtime).open(linear_folder)
