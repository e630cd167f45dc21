from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from compile.artifact import Artifact, Store
from compile.errors import Corrupted, Unsupported
from compile.models.fp8 import Fp8Codes, Fp8Linear, put_fp8, why_not_fp8
from compile.models.model import WEIGHTS, load_model
from compile.models.resolve import resolve
from compile.models.source import source_artifact
from quantize.audit import PassFailed
from quantize.build import build
from quantize.half import torch_run
from quantize.recipe import recipe_from_table
from runtimes.session import SessionOptions
from runtimes.torch_eager import TorchEager


def recipe(**parameters):
    return recipe_from_table("r", {"passes": [{"pass": "fp8", **parameters}]}, "test")


def quiet(_: str) -> None:
    pass


def rounded(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes by row as ml_dtypes rounds them, and their scales, float32."""
    scale = (np.abs(rows).max(1, keepdims=True) / np.float32(448)).astype(np.float32)
    scale[scale == 0] = 1
    codes = np.clip(rows / scale, -448, 448).astype(ml_dtypes.float8_e4m3fn)
    return codes, scale


def hostile(rows: int, columns: int, seed: int) -> np.ndarray:
    """Rows of unlike sizes, one of zeros, one beyond half precision, one of subnormals."""
    random = np.random.default_rng(seed)
    values = random.standard_normal((rows, columns)) * np.exp(random.normal(0, 2, (rows, 1)))
    values[1], values[2] = 0, values[2] * 1e6
    values[3] = values[3] * 1e-39
    return values.astype(np.float32)


def test_codes_are_the_nearest_of_the_format() -> None:
    weight = hostile(48, 64, 0)
    codes, scale = rounded(weight)
    found = Fp8Codes.of(torch.from_numpy(weight))
    np.testing.assert_array_equal(found.codes.view(torch.uint8).numpy(), codes.view(np.uint8))
    np.testing.assert_array_equal(found.scale.numpy(), scale.T)
    assert np.abs(codes.astype(np.float32)).max(1).tolist() == [448, 0, *[448] * 46]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("bias", [True, False])
def test_product_is_that_of_the_codes(bias: bool, dtype: torch.dtype) -> None:
    """Against float64, but for the result's rounding to bfloat16."""
    weight = np.random.default_rng(1).standard_normal((32, 64)).astype(np.float32)
    x = torch.from_numpy(hostile(10, 64, 2)).to(dtype)
    layer = nn.Linear(64, 32, bias=bias).to(dtype)
    (xq, xs), (wq, ws) = rounded(x.float().numpy()), rounded(weight)
    want = (xq.astype(np.float64) * xs) @ (wq.astype(np.float64) * ws).T
    if bias:
        want += layer.bias.detach().double().numpy()
    with torch.inference_mode():
        packed = Fp8Linear(Fp8Codes.of(torch.from_numpy(weight)), layer.bias)
        got = packed(x.reshape(2, 5, 64))
    assert (got.dtype, got.shape) == (dtype, (2, 5, 32))
    size = np.abs(want).max(1, keepdims=True)
    assert (np.abs(got.double().numpy().reshape(10, 32) - want) <= 2**-7 * size).all()


def test_the_linear_layers_are_stored_in_it(classifier: Artifact, store: Store) -> None:
    built = build(recipe(), classifier, "torch", store, None, quiet)
    facts = built.facts
    assert facts["layers"] == 4 * 6 + 1
    ((name, reason),) = facts["layers_left"].items()
    assert (name, reason) == ("head.dense", "64 inputs and 4 outputs are no multiples of 16")
    assert facts["parameters"] == classifier.facts["parameters"]
    assert facts["snr_db"] > 20
    assert facts["weights_ratio"] < 0.3
    types = {key: tensor.dtype for key, tensor in load_file(built.folder / WEIGHTS).items()}
    eight = [key for key, dtype in types.items() if dtype == torch.float8_e4m3fn]
    assert len(eight) == 25
    assert {types[f"{key}_scale"] for key in eight} == {torch.float32}
    others = types.keys() - {*eight, *(f"{key}_scale" for key in eight)}
    assert {types[key] for key in others} == {torch.bfloat16}
    # The same layers with what the codes stand for, multiplied in float32.
    model, dense = load_model(built.folder), load_model(classifier.folder)
    modules = dict(model.inner.named_modules())
    state = dense.inner.state_dict()
    for key in eight:
        layer = modules[key.removesuffix(".weight")]
        assert isinstance(layer, Fp8Linear)
        state[key].copy_(Fp8Codes(layer.weight, layer.weight_scale).values())
    feeds = classifier.signature.feeds({"batch": 2, "sequence": 9})
    want, got = torch_run(dense)(feeds)["logits"], torch_run(model)(feeds)["logits"]
    assert np.abs(got - want).max() < 0.15 * np.abs(want).max()


def test_excluded_layers_stay_in_bfloat16(classifier: Artifact, store: Store) -> None:
    built = build(recipe(exclude=["*.attention.*"]), classifier, "torch", store, None, quiet)
    assert built.facts["layers"] == 4 * 2 + 1
    assert len(built.facts["layers_excluded"]) == 4 * 4
    with pytest.raises(PassFailed, match="exclude 'nothing': expected"):
        build(recipe(exclude=["nothing"]), classifier, "torch", store, None, quiet)
    only_head = recipe(exclude=["layers.*", "pooler.dense"])
    with pytest.raises(PassFailed, match=r"multiples of 16 .*, found head.dense: 64 inputs and 4"):
        build(only_head, classifier, "torch", store, None, quiet)


def test_models_of_transformers_are_read_back(tmp_path: Path, store: Store) -> None:
    config = transformers.BertConfig(
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    torch.manual_seed(0)
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "bert")
    source = source_artifact(resolve(str(tmp_path / "bert"), base=tmp_path, task=None), store)
    built = build(recipe(), source, "torch", store, None, quiet)
    assert built.facts["layers"] == 2 * 6 + 1
    assert list(built.facts["layers_left"]) == ["classifier"]
    layers = [m for m in load_model(built.folder).module.modules() if isinstance(m, Fp8Linear)]
    assert len(layers) == 13


def test_weights_that_several_layers_share_stay(graphs) -> None:
    from quantize.fp8 import _why_not
    from quantize.weights import linear_weights

    first, second = nn.Linear(32, 32), nn.Linear(32, 32)
    second.weight = first.weight
    module = nn.ModuleDict({"a": first, "b": second, "c": nn.MultiheadAttention(32, 2)})
    selection = linear_weights(module, [])
    assert [_why_not(selection, name) for name in selection.linear] == [
        "several layers share it",
        "it is multiplied by MultiheadAttention",
        "it is multiplied by NonDynamicallyQuantizableLinear",
    ]


@pytest.mark.parametrize("scale", [None, torch.ones(3), torch.ones(1, 64).half()])
def test_a_file_without_the_scales_is_refused(
    scale: torch.Tensor | None, classifier: Artifact, store: Store
) -> None:
    built = build(recipe(), classifier, "torch", store, None, quiet)
    file = built.folder / WEIGHTS
    state = load_file(file)
    del state["pooler.dense.weight_scale"]
    if scale is not None:
        state["pooler.dense.weight_scale"] = scale
    file.chmod(0o644)
    built.folder.chmod(0o755)
    save_file(state, file, metadata={"aliases": "{}"})
    with pytest.raises(Corrupted, match=r"'pooler\.dense\.weight' is in 8-bit floats, and has no"):
        load_model(built.folder)


def test_it_is_for_torch(classifier: Artifact, store: Store) -> None:
    with pytest.raises(Unsupported, match="'fp8' is for torch: ONNX Runtime's CPU provider"):
        build(recipe(), classifier, "onnx", store, None, quiet)


def test_a_device_without_it_declines(classifier: Artifact, store: Store, monkeypatch) -> None:
    built = build(recipe(), classifier, "torch", store, None, quiet)
    with pytest.raises(Unsupported, match=r"capability 8\.9 or later; a CPU multiplies what"):
        TorchEager().open(str(built.folder), SessionOptions(threads=torch.get_num_threads()))
    module = load_model(built.folder).module
    for capability, reason in [((8, 0), "this one has 8.0"), ((8, 9), ""), ((9, 0), "")]:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        assert why_not_fp8(module, torch.device("cuda")).endswith(reason)
        assert bool(why_not_fp8(module, torch.device("cuda"))) == bool(reason)
    assert why_not_fp8(nn.Linear(2, 2), torch.device("cpu")) == ""


@pytest.mark.cuda
@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 9),
    reason="needs a GPU that multiplies 8-bit floats",
)
def test_a_gpu_multiplies_as_the_cpu_emulates(classifier: Artifact, store: Store) -> None:
    layer = nn.Module()
    layer.add_module("linear", nn.Linear(256, 512).bfloat16())
    put_fp8(layer, {"linear": Fp8Codes.of(torch.randn(512, 256))})
    x = torch.from_numpy(hostile(33, 256, 3)).bfloat16()
    with torch.inference_mode():
        want = layer.linear(x).float()
        got = layer.cuda().linear(x.cuda()).cpu().float()
    size = want.abs().amax(1, keepdim=True)
    assert ((got - want).abs() <= 2**-7 * size).all()
    built = build(recipe(), classifier, "torch", store, None, quiet)
    feeds = classifier.signature.feeds({"batch": 2, "sequence": 9})
    options = SessionOptions(threads=torch.get_num_threads(), device="cuda:0")
    session = TorchEager().open(str(built.folder), options)
    answer = session.run(feeds)["logits"].astype(np.float32)
    assert session.proof().kernels["aten::_scaled_mm"] == 25
    expected = torch_run(load_model(built.folder))(feeds)["logits"]
    assert np.abs(answer - expected).max() < 0.1 * np.abs(expected).max()
