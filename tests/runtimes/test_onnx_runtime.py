from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from compile.errors import InputError, Unsupported
from compile.signature import Signature
from runtimes import onnx_proof, onnx_runtime
from runtimes.client import Worker
from runtimes.onnx_runtime import OnnxRuntimeCpu, OnnxRuntimeSession
from runtimes.session import SessionOptions


def expected(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    exact = weight.astype(np.float64)
    return np.maximum(x.astype(np.float64) @ exact, 0) @ exact


def test_run_agrees_with_float64_numpy(
    start: Callable[..., Worker],
    linear_folder: Path,
    linear_signature: Signature,
    weight: np.ndarray,
) -> None:
    worker = start("onnxruntime-cpu")
    worker.open(linear_folder)
    for batch in (1, 5):
        feeds = linear_signature.feeds({"batch": batch}, seed=batch)
        outputs = worker.run(feeds)
        assert list(outputs) == ["y"]
        np.testing.assert_allclose(outputs["y"], expected(feeds["x"], weight), rtol=1e-4, atol=1e-4)


def test_proof_counts_each_node_of_the_optimised_graph_once(
    start: Callable[..., Worker], linear_folder: Path, linear_signature: Signature
) -> None:
    worker = start("onnxruntime-cpu")
    worker.open(linear_folder)
    worker.run(linear_signature.feeds({"batch": 2}))
    proof = worker.proof()
    assert proof.kernels == {"MatMul": 2, "Relu": 1}
    assert proof.providers == {"CPUExecutionProvider": 3}
    assert (proof.integer_kernels, proof.casts, proof.fallback) == (0, 0, "")


def test_proof_counts_integer_kernels_when_the_graph_is_dynamically_quantized(
    start: Callable[..., Worker],
    onnx_artifact: Callable[..., Path],
    linear_signature: Signature,
    weight: np.ndarray,
) -> None:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"]),
        helper.make_node("MatMulInteger", ["xq", "w8", "xz", "wz"], ["yi"]),
        helper.make_node("Cast", ["yi"], ["yf"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["xs", "ws"], ["s"]),
        helper.make_node("Mul", ["yf", "s"], ["y"]),
    ]
    scale = np.float32(np.abs(weight).max() / 127)
    constants = {
        "w8": np.round(weight / scale).astype(np.int8),
        "wz": np.int8(0) * np.ones((), np.int8),
        "ws": np.asarray(scale),
    }
    folder = onnx_artifact(nodes, constants)
    worker = start("onnxruntime-cpu")
    worker.open(folder)
    feeds = linear_signature.feeds({"batch": 2})
    outputs = worker.run(feeds)
    exact = feeds["x"].astype(np.float64) @ weight.astype(np.float64)
    assert np.linalg.norm(outputs["y"] - exact) / np.linalg.norm(exact) < 0.02
    proof = worker.proof()
    assert proof.integer_kernels == 1
    assert proof.kernels == {"DynamicQuantizeMatMul": 1}


@pytest.mark.parametrize(("level", "integer"), [(0, 0), (4, 1)])
def test_proof_counts_matmulnbits_as_integer_only_at_accuracy_level_4(
    start: Callable[..., Worker],
    onnx_artifact: Callable[..., Path],
    linear_signature: Signature,
    four_bit_halves: dict[str, np.ndarray],
    level: int,
    integer: int,
) -> None:
    nodes = [
        helper.make_node(
            "MatMulNBits",
            ["x", "q", "s"],
            ["y"],
            domain="com.microsoft",
            K=32,
            N=32,
            bits=4,
            block_size=32,
            accuracy_level=level,
        )
    ]
    worker = start("onnxruntime-cpu")
    worker.open(onnx_artifact(nodes, four_bit_halves))
    feeds = linear_signature.feeds({"batch": 2})
    row = 0.5 * feeds["x"].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(worker.run(feeds)["y"], np.broadcast_to(row, (2, 32)), atol=0.05)
    assert worker.proof().integer_kernels == integer


def test_proof_counts_no_integer_kernel_where_cuda_multiplies_4_bit_weights_in_float(
    onnx_artifact: Callable[..., Path], four_bit_halves: dict[str, np.ndarray]
) -> None:
    attributes = {"K": 32, "N": 32, "bits": 4, "block_size": 32, "accuracy_level": 4}
    operator = helper.make_node(
        "MatMulNBits", ["x", "q", "s"], ["y"], domain="com.microsoft", **attributes
    )
    model = onnx_artifact([operator], four_bit_halves) / "model.onnx"
    for provider, integer in (("CPUExecutionProvider", 1), ("CUDAExecutionProvider", 0)):
        proof = onnx_proof.onnx_proof([onnx_proof.Node("MatMulNBits", provider)], provider, model)
        assert proof.integer_kernels == integer


def test_proof_counts_casts_that_the_optimiser_left(
    start: Callable[..., Worker], onnx_artifact: Callable[..., Path], linear_signature: Signature
) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT32),
        helper.make_node("Cast", ["i"], ["y"], to=TensorProto.FLOAT),
    ]
    worker = start("onnxruntime-cpu")
    worker.open(onnx_artifact(nodes, {}))
    worker.run(linear_signature.feeds({"batch": 2}))
    assert worker.proof().casts == 2


def test_graph_optimization_disabled_keeps_nodes_that_the_default_removes(
    start: Callable[..., Worker], onnx_artifact: Callable[..., Path], linear_signature: Signature
) -> None:
    nodes = [
        helper.make_node("Identity", ["x"], ["i"]),
        helper.make_node("Relu", ["i"], ["y"]),
    ]
    folder = onnx_artifact(nodes, {})
    kernels = {}
    for level in ("all", "disabled"):
        worker = start("onnxruntime-cpu")
        worker.open(folder, SessionOptions(extra={"graph_optimization": level}))
        worker.run(linear_signature.feeds({"batch": 1}))
        kernels[level] = worker.proof().kernels
    assert kernels == {"all": {"Relu": 1}, "disabled": {"Identity": 1, "Relu": 1}}


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_contract_reports_the_threads_that_were_verified(
    start: Callable[..., Worker], linear_folder: Path, threads: int
) -> None:
    worker = start("onnxruntime-cpu", threads=threads)
    worker.open(linear_folder)
    assert worker.contract().threads == threads


def test_open_fails_when_the_pool_has_another_size(
    monkeypatch: pytest.MonkeyPatch, linear_folder: Path
) -> None:
    def ignoring_threads(self: OnnxRuntimeSession) -> object:
        options = original(self)
        options.intra_op_num_threads = 2
        return options

    original = OnnxRuntimeSession._session_options
    monkeypatch.setattr(OnnxRuntimeSession, "_session_options", ignoring_threads)
    with pytest.raises(Unsupported, match="runs 2 threads where 3 were asked"):
        OnnxRuntimeCpu().open(str(linear_folder), SessionOptions(threads=3))


def test_memory_minimum_is_weights_plus_inputs_plus_outputs(
    start: Callable[..., Worker], linear_folder: Path, linear_signature: Signature
) -> None:
    worker = start("onnxruntime-cpu")
    worker.open(linear_folder)
    memory = worker.memory(linear_signature.feeds({"batch": 3}))
    weights = (linear_folder / "model.onnx").stat().st_size
    assert memory.weights_bytes == weights
    assert memory.minimum_bytes == weights + 2 * 3 * 32 * 4
    assert memory.peak_bytes >= memory.resident_bytes > memory.baseline_bytes > 0
    assert memory.waste_bytes >= 0


def test_memory_tells_the_arena_once_a_call_of_these_shapes_was_profiled(
    start: Callable[..., Worker], linear_folder: Path, linear_signature: Signature
) -> None:
    worker = start("onnxruntime-cpu")
    worker.open(linear_folder)
    small, large = (linear_signature.feeds({"batch": batch}) for batch in (1, 4096))
    worker.run(large)
    assert worker.memory(large).arena_reserved_bytes is None
    worker.proof()
    found = worker.memory(large)
    # x is the caller's; h or r, and y, are the arena's: 32 floats each in 4,096 rows.
    assert found.arena_peak_bytes >= 2 * 4096 * 32 * 4
    assert found.arena_reserved_bytes >= found.arena_peak_bytes
    assert found.arena_reserved_bytes < found.resident_bytes
    assert worker.memory(small).arena_reserved_bytes is None


def test_memory_of_a_device_is_its_arenas_whether_or_not_a_proof_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, linear_folder: Path, linear_signature: Signature
) -> None:
    """A gate asks for no proof, and holds the peak to a rule all the same."""
    asked: list[int] = []

    def profiled(*arguments: object) -> onnx_proof.Profile:
        asked.append(1)
        return onnx_proof.Profile([], onnx_proof.Arena(reserved=7000, in_use=5000, peak=6000))

    session = OnnxRuntimeCpu().open(str(linear_folder), SessionOptions())
    monkeypatch.setattr(OnnxRuntimeSession, "_on_device", True)
    monkeypatch.setattr(onnx_runtime, "profiled", profiled)
    feeds = linear_signature.feeds({"batch": 2})
    for _ in range(2):
        found = session.memory(feeds)
        assert (found.peak_bytes, found.reserved_bytes, found.in_use_bytes) == (6000, 7000, 5000)
        assert found.waste_bytes == 2000
    assert len(asked) == 1


def test_open_raises_input_error_when_the_graph_has_other_inputs_than_its_manifest(
    start: Callable[..., Worker], linear_folder: Path
) -> None:
    manifest = linear_folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"name": "x"', '"name": "z"'))
    with pytest.raises(InputError, match="disagree about the inputs: x, z"):
        start("onnxruntime-cpu").open(linear_folder)


def test_open_raises_unsupported_when_an_operator_has_no_kernel(
    start: Callable[..., Worker], onnx_artifact: Callable[..., Path], weight: np.ndarray
) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["b"], to=TensorProto.BFLOAT16),
        helper.make_node("Cast", ["w"], ["wb"], to=TensorProto.BFLOAT16),
        helper.make_node("MatMul", ["b", "wb"], ["m"]),
        helper.make_node("Cast", ["m"], ["y"], to=TensorProto.FLOAT),
    ]
    with pytest.raises(Unsupported, match="no kernel"):
        start("onnxruntime-cpu").open(onnx_artifact(nodes, {"w": weight}))


def test_open_names_the_allowed_options_when_one_is_unknown(
    start: Callable[..., Worker], linear_folder: Path
) -> None:
    worker = start("onnxruntime-cpu")
    with pytest.raises(InputError, match="no option 'level'; its options: graph_optimization"):
        worker.open(linear_folder, SessionOptions(extra={"level": "all"}))
    with pytest.raises(InputError, match="'most' is not one of 'disabled', 'basic'"):
        worker.open(linear_folder, SessionOptions(extra={"graph_optimization": "most"}))


@pytest.mark.parametrize("runtime", ["onnxruntime-cuda", "onnxruntime-tensorrt"])
def test_availability_says_why_and_the_way_out_when_the_provider_is_absent(
    start: Callable[..., Worker], runtime: str, linear_folder: Path
) -> None:
    worker = start(runtime)
    available = worker.availability()
    if available.available:
        pytest.skip("this machine has the device")
    assert available.reason
    assert "onnxruntime-gpu" in available.way_out
    with pytest.raises(Unsupported, match=r"CUDA|Tensorrt"):
        worker.open(linear_folder)


def test_availability_refuses_two_packages_that_overwrite_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(onnx_runtime, "installed", lambda *names: dict.fromkeys(names, "1.0"))
    available = OnnxRuntimeCpu().availability()
    assert not available.available
    assert "both installed" in available.reason
    assert available.way_out.startswith("pip uninstall")


def test_nodes_that_another_provider_ran_are_named_as_fallback() -> None:
    counts = Counter({"Gather": 3, "Shape": 2})
    assert onnx_proof._elsewhere(counts, "CUDAExecutionProvider") == (
        "5 nodes ran outside CUDAExecutionProvider: 3 Gather, 2 Shape"
    )
    assert onnx_proof._elsewhere(Counter(), "CUDAExecutionProvider") == ""


def test_open_raises_input_error_when_a_cpu_runtime_is_given_another_device(
    linear_folder: Path,
) -> None:
    with pytest.raises(InputError, match="onnxruntime-cpu runs on cpu, not on 'cuda:0'"):
        OnnxRuntimeCpu().open(str(linear_folder), SessionOptions(device="cuda:0"))
