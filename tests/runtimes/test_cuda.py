"""Sessions, clocks and meters on a real GPU: ``pytest -m cuda``."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from compile.errors import Unsupported
from compile.signature import Feeds, Signature, TensorSpec
from runtimes.client import Worker
from runtimes.clocks import CudaEvents, HostClock, clock_calls
from runtimes.failures import WorkerOutOfMemory
from runtimes.nvml import NvmlDevice
from runtimes.onnx_runtime import OnnxRuntimeCuda
from runtimes.session import SessionOptions
from runtimes.torch_compile import TorchCompileOptions, TorchCompileSession
from runtimes.torch_eager import TorchSession

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
DEVICE = "cuda:0"
HEADS, TOKENS, SIZE = 4, 64, 64
SQUARE = Signature(
    inputs=(TensorSpec("x", "float32", ("batch", 1024)),),
    outputs=(TensorSpec("y", "float32", ("batch", 1024)),),
)
HALF = Signature(
    inputs=(TensorSpec("q", "float16", ("batch", HEADS, TOKENS, SIZE)),),
    outputs=(TensorSpec("y", "float16", ("batch", HEADS, TOKENS, SIZE)),),
)


class Square(torch.nn.Module):
    """A product long enough for TF32 to show, and a second one that reads it through a ReLU."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(1024, 1024, bias=False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.linear(torch.relu(self.linear(x))),)


class SelfAttention(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1, dtype=torch.float16))

    def forward(self, q: torch.Tensor) -> tuple[torch.Tensor]:
        q = q * self.scale
        return (torch.nn.functional.scaled_dot_product_attention(q, q, q),)


@pytest.fixture
def feeds() -> Feeds:
    return SQUARE.feeds({"batch": 64})


@pytest.fixture
def cycles() -> Callable[[float], Callable[[], object]]:
    """Milliseconds -> a call that keeps the device busy for about so long, whatever its clock."""

    def spin(count: int) -> None:
        torch.cuda._sleep(count)

    spin(1_000_000_000)  # its clock has risen
    torch.cuda.synchronize()
    first, second = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    spin(100_000_000)
    second.record()
    second.synchronize()
    per_ms = 100_000_000 / first.elapsed_time(second)
    return lambda ms: lambda: spin(int(ms * per_ms))


def exact(module: Square, x: np.ndarray) -> np.ndarray:
    weight = module.linear.weight.detach().double().cpu().numpy().T
    return np.maximum(x.astype(np.float64) @ weight, 0) @ weight


def relative(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


def opened(
    module: torch.nn.Module, signature: Signature = SQUARE, **chosen: object
) -> TorchSession:
    attention = str(chosen.pop("attention", "default"))
    options = SessionOptions(device=DEVICE, attention=attention)
    return TorchSession(module, signature, options, **chosen)  # type: ignore[arg-type]


def test_float32_is_float32_unless_tf32_is_asked_for(feeds: Feeds) -> None:
    module = Square()
    wanted = exact(module, feeds["x"])
    session = opened(module)
    assert relative(session.run(feeds)["y"], wanted) < 2e-6
    assert session.contract().precision == "f32"
    session = opened(module, tf32=True)
    assert 1e-5 < relative(session.run(feeds)["y"], wanted) < 2e-3
    assert session.contract().precision == "tf32"


@pytest.mark.parametrize("clock", ["host", "cuda-events"])
def test_contract_says_what_the_clock_covers_on_a_device(feeds: Feeds, clock: str) -> None:
    session = opened(Square(), clock=clock)
    session.run(feeds)
    contract = session.contract()
    assert (contract.clock, contract.copies) == (clock, "excluded")
    assert contract.synchronised
    assert contract.io_binding
    proof = session.proof()
    assert proof.providers == {DEVICE: 3}
    assert proof.kernels == {"aten::mm": 2, "aten::clamp_min": 1}


def test_compiled_session_agrees_and_its_proof_names_the_kernel_that_was_compiled(
    feeds: Feeds,
) -> None:
    module = Square()
    options = SessionOptions(device=DEVICE)
    session = TorchCompileSession(module, SQUARE, options, TorchCompileOptions())
    assert relative(session.run(feeds)["y"], exact(module, feeds["x"])) < 2e-6
    proof = session.proof()
    assert proof.graph_breaks == 0
    assert proof.kernels == {"aten::mm": 2, "triton_poi_fused_relu_0": 1}


@pytest.mark.parametrize("backend", ["math", "flash", "efficient", "cudnn"])
def test_proof_names_the_attention_backend_that_was_asked_for(backend: str) -> None:
    feeds = HALF.feeds({"batch": 2})
    session = opened(SelfAttention(), HALF, attention=f"sdpa:{backend}")
    got = session.run(feeds)["y"].astype(np.float64)
    q = feeds["q"].astype(np.float64)
    scores = q @ q.swapaxes(-1, -2) / np.sqrt(SIZE)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    wanted = weights / weights.sum(-1, keepdims=True) @ q
    assert relative(got, wanted) < 2e-3
    assert session.proof().attention == f"sdpa:{backend}"


def test_an_attention_backend_that_cannot_is_unsupported_with_a_reason(feeds: Feeds) -> None:
    signature = Signature(
        inputs=(TensorSpec("q", "float32", HALF.inputs[0].shape),),
        outputs=(TensorSpec("y", "float32", HALF.outputs[0].shape),),
    )
    session = opened(SelfAttention().float(), signature, attention="sdpa:flash")
    with pytest.raises(Unsupported, match="flash_attention cannot run"):
        session.run(signature.feeds({"batch": 1}))


def test_memory_is_the_caching_allocators(feeds: Feeds) -> None:
    session = opened(Square())
    session.prepare(feeds)()
    memory = session.memory(feeds)
    weights = 1024 * 1024 * 4
    assert memory.weights_bytes == weights
    assert memory.minimum_bytes == weights + 2 * feeds["x"].nbytes
    assert memory.in_use_bytes is not None
    assert memory.peak_bytes is not None
    assert memory.reserved_bytes is not None
    assert weights <= memory.in_use_bytes <= memory.peak_bytes <= memory.reserved_bytes
    assert memory.waste_bytes == memory.reserved_bytes - memory.in_use_bytes


def test_both_clocks_tell_a_latency_that_is_known(
    cycles: Callable[[float], Callable[[], object]],
) -> None:
    short, long = cycles(2.0), cycles(8.0)
    events = CudaEvents(DEVICE)
    told = [float(np.median(clock_calls(events, call, 11))) / 1e6 for call in (short, long)]
    assert told[0] == pytest.approx(2.0, rel=0.1)
    # Of a device whose clock does not move, four times the cycles are four times the time.
    assert told[1] / told[0] == pytest.approx(4.0, rel=0.05)

    def waited() -> None:
        long()
        torch.cuda.synchronize()

    host = float(np.median(clock_calls(HostClock(), waited, 11))) / 1e6
    assert told[1] * 0.98 < host < told[1] * 1.1 + 0.2


def test_events_do_not_count_what_the_host_does_beside_the_device(
    cycles: Callable[[float], Callable[[], object]],
) -> None:
    call = cycles(40.0)

    def busy() -> None:
        call()
        time.sleep(0.02)

    told = float(np.median(clock_calls(CudaEvents(DEVICE), busy, 5))) / 1e6
    assert told == pytest.approx(40.0, rel=0.1)


def test_nvml_knows_the_device_and_what_a_process_holds() -> None:
    device = NvmlDevice(DEVICE)
    held = torch.zeros(256 << 20, dtype=torch.uint8, device=DEVICE)
    torch.cuda.synchronize()
    assert held.nbytes <= device.process_bytes([os.getpid()]) < 16 << 30
    assert 100 < device.clock_mhz() < 4000
    assert 50 < device.power_cap_w() < 2000
    assert 10 < device.temperature_c() < 110
    before, start = device.energy_j(), time.perf_counter()
    a = torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16)
    while time.perf_counter() - start < 1.0:
        (a @ a).sum().item()
    joules = device.energy_j() - before
    # A second of large products: more than a board uses idle, no more than two seconds at its cap.
    assert 60 < joules < 2 * device.power_cap_w()


def test_what_the_device_cannot_hold_is_out_of_memory_and_no_crash(
    start: Callable[..., Worker], linear_folder: Path
) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has no CUDA")
    worker = start("onnxruntime-cuda")
    worker.open(linear_folder, SessionOptions(device=DEVICE))
    total = torch.cuda.get_device_properties(0).total_memory
    held = torch.empty(int(total * 0.93), dtype=torch.uint8, device=DEVICE)
    with pytest.raises(WorkerOutOfMemory):
        worker.run({"x": np.zeros(((8 << 30) // 128, 32), np.float32)})
    del held
    torch.cuda.empty_cache()


@pytest.fixture
def onnx_session(linear_folder: Path) -> SimpleNamespace:
    runtime = OnnxRuntimeCuda()
    available = runtime.availability()
    if not available.available:
        pytest.skip(available.reason)
    return runtime.open(str(linear_folder), SessionOptions(device=DEVICE))  # type: ignore[return-value]


def test_onnx_runtime_runs_on_the_device_and_proves_it(
    onnx_session: SimpleNamespace, linear_signature: Signature, weight: np.ndarray
) -> None:
    feeds = linear_signature.feeds({"batch": 16})
    x, w = feeds["x"].astype(np.float64), weight.astype(np.float64)
    assert relative(onnx_session.run(feeds)["y"], np.maximum(x @ w, 0) @ w) < 1e-6  # no TF32
    contract = onnx_session.contract()
    assert (contract.clock, contract.copies, contract.io_binding) == ("host", "excluded", True)
    assert contract.precision == "f32"
    onnx_session.prepare(feeds)()
    memory = onnx_session.memory(feeds)  # known although no proof was asked for
    assert onnx_session.proof().providers == {"CUDAExecutionProvider": 3}
    assert memory.reserved_bytes is not None
    assert memory.in_use_bytes is not None
    assert memory.peak_bytes is not None
    assert weight.nbytes <= memory.in_use_bytes <= memory.peak_bytes <= memory.reserved_bytes
