from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from compile.errors import InputError, Unsupported
from compile.models.config import TransformerConfig
from compile.models.model import Model, save_model, transformer_model
from compile.signature import Feeds, Signature, TensorSpec
from runtimes import torch_proof
from runtimes.client import Worker
from runtimes.session import SessionOptions
from runtimes.torch_compile import TorchCompile, TorchCompileOptions, TorchCompileSession
from runtimes.torch_eager import TorchSession

DECODER = TransformerConfig(
    kind="decoder",
    vocabulary=50,
    max_sequence=32,
    width=16,
    layers=2,
    heads=4,
    kv_heads=2,
    ffn=32,
    position="rotary",
    head="causal-lm",
)
PAIR = Signature(
    inputs=(TensorSpec("a", "float32", ("batch", 8)), TensorSpec("b", "float32", ("batch", 8))),
    outputs=(
        TensorSpec("difference", "float32", ("batch", 8)),
        TensorSpec("product", "float32", ("batch", 8)),
    ),
)
SessionMaker = Callable[..., TorchSession]


class Pair(torch.nn.Module):
    """Two outputs that tell the inputs' order, the second through a weight."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(8, 8, bias=False)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return a - b, self.linear(a)


class Breaking(Pair):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        difference = a - b
        torch._dynamo.graph_break()
        return difference, self.linear(a)


class Attending(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        q, k = (x.view(-1, 1, 1, 8) * self.scale for x in (a, b))
        y = torch.nn.functional.scaled_dot_product_attention(q, k, k).view(-1, 8)
        return y, y


@pytest.fixture
def decoder_folder(tmp_path: Path) -> tuple[Path, Model]:
    model = transformer_model("tiny", DECODER)
    folder = tmp_path / "decoder"
    folder.mkdir()
    made = save_model(model, folder)
    manifest = {"kind": made.kind, "signature": made.signature.to_json()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder, model


def session(module: torch.nn.Module, **options: object) -> TorchSession:
    return TorchSession(module, PAIR, SessionOptions(**options))  # type: ignore[arg-type]


def exact(module: Pair, feeds: Feeds) -> dict[str, np.ndarray]:
    weight = module.linear.weight.detach().double().numpy()
    a, b = (feeds[name].astype(np.float64) for name in "ab")
    return {"difference": a - b, "product": a @ weight.T}


@pytest.mark.parametrize(("past", "sequence"), [(0, 5), (4, 1)])
def test_a_decoder_in_a_worker_agrees_with_its_module_in_prefill_and_decode(
    start: Callable[..., Worker], decoder_folder: tuple[Path, Model], past: int, sequence: int
) -> None:
    folder, model = decoder_folder
    worker = start("torch-eager")
    worker.open(folder)
    feeds = model.signature.feeds({"batch": 2, "past": past, "sequence": sequence})
    outputs = worker.run(feeds)
    with torch.inference_mode():
        expected = model.module(*(torch.from_numpy(feeds[s.name]) for s in model.signature.inputs))
    assert list(outputs) == [spec.name for spec in model.signature.outputs]
    for got, wanted in zip(outputs.values(), expected, strict=True):
        np.testing.assert_allclose(got, wanted.numpy(), atol=1e-5)
    proof = worker.proof()
    assert proof.attention.startswith("sdpa:")
    # Two layers of q, k, v, output and two feed-forward products, then a head without bias.
    assert (proof.kernels["aten::addmm"], proof.kernels["aten::mm"]) == (12, 1)
    assert worker.contract().precision == "f32"


def test_memory_knows_weights_minimum_and_waste(
    start: Callable[..., Worker], decoder_folder: tuple[Path, Model]
) -> None:
    folder, model = decoder_folder
    worker = start("torch-eager")
    worker.open(folder)
    feeds = model.signature.feeds({"batch": 1, "sequence": 3})
    memory = worker.memory(feeds)
    weights = {p.data_ptr(): p.nbytes for p in model.module.parameters()}
    assert sum(weights.values()) <= memory.weights_bytes < sum(weights.values()) + 10_000
    moved = sum(array.nbytes for array in [*feeds.values(), *worker.run(feeds).values()])
    assert memory.minimum_bytes == memory.weights_bytes + moved
    assert memory.reserved_bytes >= memory.in_use_bytes > 0


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-6), (torch.float16, 5e-3), (torch.bfloat16, 4e-2)],
)
def test_a_half_precision_module_takes_and_gives_what_the_signature_says(
    dtype: torch.dtype, tolerance: float
) -> None:
    module = Pair()
    feeds = PAIR.feeds({"batch": 3})
    expected = exact(module, feeds)
    opened = session(module.to(dtype))
    outputs = opened.run(feeds)
    for name, array in outputs.items():
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, expected[name], atol=tolerance)
    # What float32 operations may use: a build's own format is what is compared, not how.
    assert opened.contract().precision == "f32"
    own = str(dtype).removeprefix("torch.")
    cast = f"cast to or from {own} at the border: a, b, difference, product"
    assert opened.proof().fallback == ("" if dtype == torch.float32 else cast)


def test_bfloat16_feeds_and_outputs_keep_their_dtype() -> None:
    import ml_dtypes

    signature = Signature(
        tuple(TensorSpec(s.name, "bfloat16", s.shape) for s in PAIR.inputs),
        tuple(TensorSpec(s.name, "bfloat16", s.shape) for s in PAIR.outputs),
    )
    opened = TorchSession(Pair().bfloat16(), signature, SessionOptions())
    a = np.array([[1, 2, 3, 4, 5, 6, 7, 8]], ml_dtypes.bfloat16)
    outputs = opened.run({"a": a, "b": a * 0 + 1})
    assert outputs["difference"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(outputs["difference"][0], np.arange(8))


def test_proof_names_the_attention_kernel_that_was_asked_for() -> None:
    feeds = PAIR.feeds({"batch": 2})
    for asked in ("sdpa:math", "sdpa:flash"):
        opened = session(Attending(), attention=asked)
        opened.run(feeds)
        opened.prepare(feeds)()
        assert opened.proof().attention == asked


def test_attention_that_this_device_has_no_kernel_for_is_unsupported() -> None:
    with pytest.raises(Unsupported, match="efficient_attention cannot run this attention: No"):
        session(Attending(), attention="sdpa:efficient").run(PAIR.feeds({"batch": 2}))


def test_open_raises_when_attention_or_device_is_unknown() -> None:
    with pytest.raises(Unsupported, match="no attention 'paged'; it has default, sdpa:math"):
        session(Pair(), attention="paged")
    with pytest.raises(InputError, match="device 'warp' is neither cpu nor cuda:N"):
        session(Pair(), device="warp")
    with pytest.raises(Unsupported, match="no CUDA device cuda:99"):
        session(Pair(), device="cuda:99")


def test_open_raises_when_torch_ignores_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    asked = torch.get_num_threads() + 1
    with pytest.raises(Unsupported, match=f"where {asked} were asked"):
        session(Pair(), threads=asked)


def test_threads_that_the_environment_settled_are_not_set_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Setting the same number again forbids MKL to use fewer, and costs time."""
    told: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", told.append)
    opened = session(Pair(), threads=torch.get_num_threads())
    assert opened.contract().threads == torch.get_num_threads()
    assert told == []


def test_compiled_module_agrees_with_float64_and_counts_its_graph_break(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Dynamo's eager backend keeps this fast; Inductor is in the next test."""
    compiler = torch.compile

    def without_inductor(module: torch.nn.Module, **settings: object) -> object:
        settings.pop("mode")
        return compiler(module, backend="eager", **settings)

    monkeypatch.setattr(torch, "compile", without_inductor)
    feeds = PAIR.feeds({"batch": 3})
    for module, breaks in ((Pair(), 0), (Breaking(), 1)):
        torch._dynamo.reset()
        opened = TorchCompileSession(module, PAIR, SessionOptions(), TorchCompileOptions())
        outputs = opened.run(feeds)
        for name, array in exact(module, feeds).items():
            np.testing.assert_allclose(outputs[name], array, atol=1e-6)
        proof = opened.proof()
        assert proof.graph_breaks == breaks
        assert ("graph breaks: " in proof.fallback) == bool(breaks)
    torch._dynamo.reset()
    opened = TorchCompileSession(
        Breaking(), PAIR, SessionOptions(), TorchCompileOptions(fullgraph=True)
    )
    with pytest.raises(Unsupported, match=r"torch\.compile failed"):
        opened.run(feeds)


def test_too_many_shapes_are_refused_instead_of_running_eagerly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from runtimes import torch_compile

    compiler = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda module, mode, **settings: compiler(module, backend="eager")
    )
    monkeypatch.setattr(torch_compile, "MAX_SHAPES", 2)
    torch._dynamo.reset()
    with torch._dynamo.config.patch(automatic_dynamic_shapes=False):
        opened = TorchCompileSession(Pair(), PAIR, SessionOptions(), TorchCompileOptions())
        for batch in (2, 3):
            opened.run(PAIR.feeds({"batch": batch}))
        with pytest.raises(Unsupported, match=r"more than 2 shapes .* set dynamic = true"):
            opened.run(PAIR.feeds({"batch": 4}))


def test_inductor_compiles_a_tiny_module_in_prepare() -> None:
    torch._dynamo.reset()
    module = Pair()
    opened = TorchCompileSession(module, PAIR, SessionOptions(), TorchCompileOptions())
    feeds = PAIR.feeds({"batch": 4})
    timed = opened.prepare(feeds)
    difference, product = timed()  # type: ignore[misc]
    expected = exact(module, feeds)
    np.testing.assert_allclose(difference.numpy(), expected["difference"], atol=1e-6)
    np.testing.assert_allclose(product.numpy(), expected["product"], atol=1e-6)


def test_compile_is_unavailable_when_there_is_no_cpp_compiler(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    available = TorchCompile().availability()
    assert not available.available
    assert "no C++ compiler" in available.reason
    assert "install g++" in available.way_out


def test_profile_counts_an_operator_once_at_its_innermost_level() -> None:
    class Event:
        def __init__(self, name: str, *children: Event) -> None:
            self.name, self.cpu_children = name, children

    linear = Event(
        "aten::linear",
        Event("aten::t", Event("aten::transpose")),
        Event("aten::addmm", Event("aten::copy_"), Event("aten::resolve_conj")),
    )
    assert torch_proof._working(linear) == ["aten::addmm"]
    assert torch_proof._working(Event("aten::view")) == []
    assert torch_proof._working(Event("aten::clone", Event("aten::copy_"))) == ["aten::clone"]
    graph = Event(
        "## Call CompiledFxGraph f ##",
        Event("aten::mm", Event("cudaLaunchKernelExC")),
        Event("cudaEventRecord"),
        Event("triton_per_fused_relu_0", Event("cuLaunchKernel")),
    )
    assert torch_proof._working(graph) == ["aten::mm", "triton_per_fused_relu_0"]
