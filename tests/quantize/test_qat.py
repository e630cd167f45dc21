from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import quantize.passes
from compile.artifact import Artifact, Store
from compile.errors import InputError, Unsupported
from compile.graph import MODEL, array, load_onnx
from compile.models.config import TransformerConfig
from compile.models.model import transformer_model
from quantize.audit import PassFailed, decibels, signal_and_noise
from quantize.build import build
from quantize.passes import Qat
from quantize.recipe import recipe_from_table

STATIC = {"pass": "int8", "mode": "static", "examples": 16}


def recipe(*passes: dict):
    return recipe_from_table("r", {"passes": list(passes)}, "test")


def qat(**parameters) -> dict:
    return {"pass": "qat", "steps": 4, "batch_size": 8, **parameters}


def quiet(_: str) -> None:
    pass


def test_without_torchao_it_is_unsupported_with_the_way_out(
    classifier: Artifact, examples, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize.passes, "find_spec", lambda name: None)
    data = examples(classifier.signature)
    with pytest.raises(Unsupported, match=r"'qat' needs torchao: pip install 'assay\[qat\]'"):
        build(recipe(qat(), STATIC), classifier, "onnx", store, data, quiet)


@pytest.mark.parametrize(
    ("passes", "reason"),
    [
        ([qat()], "'int8' with mode = \"static\" has to come next"),
        ([qat(), {"pass": "int8"}], "'int8' with mode = \"static\" has to come next"),
        ([qat(), {"pass": "smooth"}, STATIC], "'int8' with mode = \"static\" has to come next"),
        ([qat(activations="s8"), STATIC], "have to agree about activations"),
        ([qat(exclude=["head*"]), STATIC], "have to exclude the same"),
        ([{"pass": "prune"}, qat(), STATIC], "'qat' cannot come after 'prune'"),
    ],
)
def test_it_stands_before_static_int8(passes: list[dict], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        recipe(*passes)


def test_it_is_for_onnx(classifier: Artifact, examples, store: Store) -> None:
    data = examples(classifier.signature)
    with pytest.raises(Unsupported, match="'qat' trains for the 'int8' behind it"):
        build(recipe(qat(), STATIC), classifier, "torch", store, data, quiet)


@pytest.mark.parametrize("activations", ["u8", "s8"])
def test_fake_quantizers_round_as_int8_does(activations: str, classifier: Artifact) -> None:
    """A program of one layer against float64, on the grids of the pass behind it."""
    pytest.importorskip("torchao")
    from quantize.qat import fake_quantized

    layer, signature = nn.Linear(24, 16), classifier.signature
    spec = SimpleNamespace(name="x", shape=("batch", 24), dtype="float32")
    signature = SimpleNamespace(
        inputs=(spec,), axes={"batch"}, feeds=lambda sizes: {"x": np.ones((2, 24), np.float32)}
    )
    model = SimpleNamespace(module=layer, signature=signature, examples=None)
    program, taken = fake_quantized(model, Qat(activations=activations))
    assert taken == ["weight"]
    x = np.random.default_rng(0).standard_normal((50, 24)).astype(np.float32) + 1
    got = program(torch.from_numpy(x)).detach().numpy()
    if activations == "s8":
        scale, zero, low, high = np.abs(x).max() / 127, 0, -127, 127
    else:
        scale = (x.max() - x.min()) / 255
        zero, low, high = round(-x.min() / scale), 0, 255
    w = layer.weight.detach().double().numpy()
    grid = np.abs(w).max(1, keepdims=True) / 127
    codes = (np.clip(np.rint(x.astype(np.float64) / scale) + zero, low, high) - zero) * scale
    want = codes @ (np.rint(w / grid) * grid).T + layer.bias.detach().double().numpy()
    # A value halfway between two codes may go either way in float32.
    assert np.median(np.abs(got - want)) < 1e-5
    assert np.abs(got - want).max() < 2 * scale
    exact = x @ w.T + layer.bias.detach().numpy()
    assert np.abs(got - exact).max() > 1e-3


def accuracy(artifact: Artifact, graphs, examples, signature) -> float:
    right = total = 0
    batches = examples(signature).training(64, 1000)
    for _ in range(4):
        batch = next(batches)
        logits = graphs.run(artifact.folder / MODEL, batch.feeds)
        right += int((logits.argmax(1) == batch.labels).sum())
        total += len(batch.labels)
    return right / total


def test_weights_are_trained_and_the_build_runs_in_integers(
    classifier: Artifact, examples, graphs, store: Store
) -> None:
    pytest.importorskip("torchao")
    data, signature = examples(classifier.signature), classifier.signature
    trained = qat(steps=60, batch_size=16, lr=1e-3, alpha=0.0)
    before = build(recipe(STATIC), classifier, "onnx", store, data, quiet)
    built = build(recipe(trained, STATIC), classifier, "onnx", store, data, quiet)
    assert sum(built.facts["quantized_kernels"].values()) == 26
    assert built.facts["float_products"] == 0
    # The labels are those that nobody has taught it before.
    was, now = (accuracy(each, graphs, examples, signature) for each in (before, built))
    assert now > was + 0.2
    names = {t.name: array(t) for t in load_onnx(built.folder).graph.initializer}
    assert names["head.dense.weight__s8"].dtype == np.int8


def test_excluded_layers_have_no_fake_quantizer(
    classifier: Artifact, examples, store: Store
) -> None:
    pytest.importorskip("torchao")
    excluded = ["head*", "*.query"]
    passes = qat(exclude=excluded), {**STATIC, "exclude": excluded}
    data = examples(classifier.signature)
    built = build(recipe(*passes), classifier, "onnx", store, data, quiet)
    assert built.facts["layers"] == 26 - 5
    assert built.facts["float_products"] == 5
    slip = qat(exclude=["nothing"]), {**STATIC, "exclude": ["nothing"]}
    with pytest.raises(PassFailed, match="exclude 'nothing'"):
        build(recipe(*slip), classifier, "onnx", store, data, quiet)


def test_a_decoder_with_a_cache_is_traced_whole() -> None:
    pytest.importorskip("torchao")
    from quantize.qat import fake_quantized

    config = TransformerConfig(
        vocabulary=50,
        max_sequence=32,
        width=32,
        layers=2,
        ffn=48,
        heads=4,
        kind="decoder",
        kv_heads=2,
        position="rotary",
        head="causal-lm",
        norm="rmsnorm",
        norm_first=True,
        activation="swiglu",
    )
    model = transformer_model("tiny", config)
    program, taken = fake_quantized(model, Qat())
    linear = [n for n, m in model.module.named_modules() if isinstance(m, nn.Linear)]
    # The head multiplies by the table of the embedding, and goes by its name.
    assert sorted(taken) == sorted([*linear, "embedding.tokens"])
    for batch, sequence, past in [(3, 5, 4), (1, 7, 0), (2, 1, 3)]:
        feeds = model.signature.feeds({"batch": batch, "sequence": sequence, "past": past})
        inputs = [torch.from_numpy(each) for each in feeds.values()]
        with torch.no_grad():
            got, want = program(*inputs), model.module(*inputs)
        for quantized, exact in zip(got, want, strict=True):
            assert quantized.shape == exact.shape
            ratio = decibels(*signal_and_noise(exact.numpy(), quantized.numpy()))
            assert 15 < ratio < 80
