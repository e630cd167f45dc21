from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from compile import export, graph
from compile.artifact import Artifact, Made, Step, Store
from compile.errors import Incorrect, Unsupported
from compile.export import export_onnx
from compile.models.model import Model, load_model, save_model
from compile.parity import check_parity, parity_feeds
from compile.signature import Signature, TensorSpec


def session_of(artifact: Artifact) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(
        str(artifact.folder / "model.onnx"), providers=["CPUExecutionProvider"]
    )


def torch_outputs(artifact: Artifact, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    model = load_model(artifact.folder)
    with torch.no_grad():
        outputs = model.module(*(torch.from_numpy(feeds[s.name]) for s in model.signature.inputs))
    return [output.numpy() for output in outputs]


@pytest.mark.parametrize("sizes", [(1, 1), (2, 5), (4, 40)])
def test_exported_encoder_equals_torch_at_sizes_it_was_not_exported_at(
    encoder: Artifact, encoder_onnx: Artifact, sizes: tuple[int, int]
) -> None:
    feeds = encoder.signature.feeds({"batch": sizes[0], "sequence": sizes[1]}, seed=9)
    feeds["attention_mask"][-1, sizes[1] // 2 + 1 :] = 0
    (got,) = session_of(encoder_onnx).run(["logits"], feeds)
    np.testing.assert_allclose(got, torch_outputs(encoder, feeds)[0], atol=1e-6)


def test_one_decoder_graph_does_prefill_and_decode(
    decoder: Artifact, decoder_onnx: Artifact
) -> None:
    names = [spec.name for spec in decoder.signature.outputs]
    session = session_of(decoder_onnx)
    feeds = decoder.signature.feeds({"batch": 2, "sequence": 9}, seed=2)
    whole = torch_outputs(decoder, feeds)
    got = session.run(names, feeds)
    for have, want in zip(got, whole, strict=True):
        np.testing.assert_allclose(have, want, atol=1e-5)
    # The same text token by token, its cache fed back.
    ids, step = feeds["input_ids"], {**feeds}
    for i in range(9):
        step["input_ids"] = ids[:, i : i + 1]
        step["attention_mask"] = np.ones((2, i + 1), np.int64)
        logits, *cache = session.run(names, step)
        np.testing.assert_allclose(logits[:, 0], whole[0][:, i], atol=1e-5)
        step |= {
            name.replace("present", "past_key_values"): value
            for name, value in zip(names[1:], cache, strict=True)
        }


def test_the_graph_is_canonical_and_named_as_in_torch(
    encoder_onnx: Artifact, decoder_onnx: Artifact
) -> None:
    for artifact, layers, inside in ((encoder_onnx, 2, 6), (decoder_onnx, 2, 7)):
        model = graph.load_onnx(artifact.folder)
        onnx.checker.check_model(model, full_check=True)
        ops = graph.count_ops(model)
        assert ops["Attention"] == layers
        assert not {"Gemm", "Identity", "Constant"} & set(ops)
        assert graph.opset(model) == 23
        names = [node.name for node in graph.nodes_of(model, "MatMul")]
        assert len(names) == layers * inside + (2 if artifact is encoder_onnx else 1)
        weights = graph.initializers(model)
        state = load_state(artifact)
        for node in graph.nodes_of(model, "MatMul"):
            assert node.input[1] == f"{node.name}.weight"
            want = state.get(node.input[1], state["embedding.tokens.weight"])
            assert np.array_equal(graph.array(weights[node.input[1]]), want.T)
        assert "layers.1.feed_forward.down" in names


def load_state(artifact: Artifact) -> dict[str, np.ndarray]:
    """The weights of the torch artifact that it came from, which lies beside it."""
    source = load_model(artifact.folder.parent / artifact.lineage[0].key)
    return {name: value.numpy() for name, value in source.module.state_dict().items()}


def test_axes_are_dynamic_and_have_the_signatures_names(decoder_onnx: Artifact) -> None:
    model = graph.load_onnx(decoder_onnx.folder)
    for specs, values in (
        (decoder_onnx.signature.inputs, model.graph.input),
        (decoder_onnx.signature.outputs, model.graph.output),
    ):
        assert [(v.name, graph.axes(v)) for v in values] == [(s.name, s.shape) for s in specs]


def test_facts_hold_the_parity_of_every_shape_and_what_a_tied_head_costs(
    encoder_onnx: Artifact, decoder_onnx: Artifact
) -> None:
    parity = encoder_onnx.facts["parity"]
    assert {(p["sizes"]["batch"], p["sizes"]["sequence"]) for p in parity} == {
        (1, 1),
        (1, 7),
        (3, 17),
        (3, 40),
    }
    assert [p["padded"] for p in parity] == [False, False, True, True]
    pasts = {p["sizes"]["past"] for p in decoder_onnx.facts["parity"]}
    assert {0, 4, 9, 16} <= pasts
    for entry in (*parity, *decoder_onnx.facts["parity"]):
        assert 0 <= entry["absolute"] < 1e-5
        assert 0 < entry["relative"] < 1e-5
    assert decoder_onnx.facts["canonical"]["tied_bytes"] == 90 * 32 * 4
    assert encoder_onnx.facts["canonical"]["tied_bytes"] == 0
    assert decoder_onnx.facts["nodes"]["Attention"] == 2


def test_export_is_incorrect_when_the_tolerance_is_finer_than_rounding(
    encoder: Artifact, store: Store
) -> None:
    with pytest.raises(Incorrect, match=r"'logits' differs by .* at batch=.* tolerance 1e-12"):
        export_onnx(encoder, store, tolerance=1e-12)


def test_export_says_nothing(
    encoder: Artifact,
    tmp_path: Path,
    capfd: pytest.CaptureFixture,
    recwarn: pytest.WarningsRecorder,
) -> None:
    export_onnx(encoder, Store(tmp_path))
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
    assert not recwarn.list


def test_an_export_is_the_same_each_time_and_holds_no_path(
    encoder: Artifact, encoder_onnx: Artifact, tmp_path: Path
) -> None:
    again = export_onnx(encoder, Store(tmp_path))
    assert again.key == encoder_onnx.key
    assert again.files == encoder_onnx.files
    assert (
        str(Path(torch.__file__).parent).encode() not in (again.folder / "model.onnx").read_bytes()
    )


def test_half_precision_is_exported_as_such(encoder: Artifact, store: Store) -> None:
    model = load_model(encoder.folder).to(torch.float16)
    half = store.derive(Step("half", 1), encoder, lambda folder: save_model(model, folder))
    exported = export_onnx(half, store)
    proto = graph.load_onnx(exported.folder)
    assert graph.array(graph.initializers(proto)["pooler.dense.weight"]).dtype == np.float16
    assert exported.signature.outputs[0].dtype == "float16"


def artifact_of(store: Store, module: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Artifact:
    """A torch artifact that loads as ``module``."""
    spec = TensorSpec("x", "float32", ("batch", 4))
    signature = Signature((spec,), (TensorSpec("y", "float32", ("batch", 4)),))
    model = Model("odd", module, signature, None, {"family": "test"})
    monkeypatch.setattr(export, "load_model", lambda _: model)
    step = Step("odd", 1, {"module": type(module).__name__})
    return store.derive(step, None, lambda _: Made("torch", signature))


class Inverse(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (torch.linalg.pinv(x.T @ x) @ x.T,)


class Fixed(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (x + torch.ones(int(x.shape[0]) if x.shape[0] != 2 else 2, 4),)


class Unlike(nn.Module):
    """Another function in the graph than in torch."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (x + 0.5 if torch.compiler.is_exporting() else x,)


class NotANumberInOnnx(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return ((x - x) / (x - x) if torch.compiler.is_exporting() else x,)


class NotANumber(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return ((x - x) / (x - x),)


def test_an_operator_without_onnx_counterpart_is_named(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Unsupported, match=r"'odd': .*linalg") as caught:
        export_onnx(artifact_of(store, Inverse(), monkeypatch), store)
    assert "\n" not in str(caught.value)


def test_a_batch_that_the_code_fixes_is_unsupported(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Unsupported, match="'odd'"):
        export_onnx(artifact_of(store, Fixed(), monkeypatch), store)


def test_a_graph_that_computes_something_else_is_incorrect(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Incorrect, match=r"'y' differs by 0\.5 "):
        export_onnx(artifact_of(store, Unlike(), monkeypatch), store)


def test_a_model_that_gives_not_a_number_is_incorrect(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Incorrect, match="the model's own output 'y' is not finite at batch=1"):
        export_onnx(artifact_of(store, NotANumber(), monkeypatch), store)


def test_a_graph_alone_that_gives_not_a_number_is_incorrect(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Incorrect, match="'y' differs by nan"):
        export_onnx(artifact_of(store, NotANumberInOnnx(), monkeypatch), store)


def test_parity_looks_at_unpadded_positions_only(decoder_onnx: Artifact) -> None:
    path = decoder_onnx.folder / "model.onnx"
    session = session_of(decoder_onnx)
    names = [spec.name for spec in decoder_onnx.signature.outputs]

    def changed_at_padding(feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        outputs = session.run(names, feeds)
        padded = feeds["attention_mask"][:, -outputs[0].shape[1] :] == 0
        outputs[0][padded] += 100
        return outputs

    def changed_once(feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        outputs = session.run(names, feeds)
        outputs[0][-1, -1, 0] += 1
        return outputs

    check_parity(changed_at_padding, path, decoder_onnx.signature, tolerance=1e-5)
    with pytest.raises(Incorrect, match="'logits' differs by 1 "):
        check_parity(changed_once, path, decoder_onnx.signature, tolerance=1e-5)


def test_parity_never_asks_for_more_than_the_positions_allow(decoder: Artifact) -> None:
    for sizes, feeds in parity_feeds(decoder.signature):
        assert sizes["past"] + sizes["sequence"] <= 40
        # Padding stands on the left, and no row is padded whole.
        mask = feeds["attention_mask"]
        assert (mask[:, -1] == 1).all()
        assert (np.diff(mask, axis=1) >= 0).all()
