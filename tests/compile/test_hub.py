"""Transformers models from local folders: no hub is needed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import transformers

from compile.artifact import Artifact, Store
from compile.errors import Incorrect, InputError, Unsupported
from compile.export import export_onnx
from compile.models import hub
from compile.models.hub_files import model_tokenizer
from compile.models.model import load_model
from compile.models.resolve import resolve
from compile.models.source import source_artifact

BERT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 100,
    "max_position_embeddings": 40,
}
LLAMA = {**BERT, "num_attention_heads": 4, "num_key_value_heads": 2}


def saved(folder: Path, module: torch.nn.Module) -> Path:
    module.save_pretrained(folder)
    return folder


def bert(folder: Path) -> Path:
    config = transformers.BertConfig(num_labels=3, **BERT)
    return saved(folder, transformers.BertForSequenceClassification(config))


def source(folder: Path, task: str | None = None) -> tuple[Artifact, Store]:
    store = Store(folder.parent / "store")
    return source_artifact(resolve(str(folder), base=folder, task=task), store), store


def onnx_outputs(artifact: Artifact, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(
        str(artifact.folder / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)


def encoders() -> dict[str, torch.nn.Module]:
    distil = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48, "vocab_size": 100}
    return {
        "text-classification": transformers.BertForSequenceClassification(
            transformers.BertConfig(num_labels=3, **BERT)
        ),
        "fill-mask": transformers.DistilBertForMaskedLM(
            transformers.DistilBertConfig(max_position_embeddings=40, **distil)
        ),
        "image-classification": transformers.ViTForImageClassification(
            transformers.ViTConfig(
                hidden_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=48,
                image_size=16,
                patch_size=4,
            )
        ),
    }


def test_an_older_transformers_than_wrote_the_artifact_does_not_misread_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact, _ = source(bert(tmp_path / "model"))
    built = transformers.__version__
    monkeypatch.setattr(transformers, "__version__", "0.9.1")
    with pytest.raises(Unsupported, match=rf"built with transformers {built}, and 0\.9\.1 would"):
        load_model(artifact.folder)


@pytest.mark.parametrize("task", ["text-classification", "fill-mask", "image-classification"])
def test_an_encoder_folder_is_exported_and_equals_transformers(tmp_path: Path, task: str) -> None:
    theirs = encoders()[task].eval()
    artifact, store = source(saved(tmp_path / "model", theirs))
    model = load_model(artifact.folder)
    assert model.task == task
    exported = export_onnx(artifact, store)
    feeds = model.signature.feeds({"batch": 3, "sequence": 11}, seed=1)
    if "attention_mask" in feeds:
        feeds["attention_mask"][1, 6:] = 0
    with torch.no_grad():
        want = theirs(**{name: torch.from_numpy(value) for name, value in feeds.items()}).logits
    np.testing.assert_allclose(onnx_outputs(exported, feeds)[0], want, atol=1e-5)
    inputs = {
        "image-classification": ["pixel_values"],
        "fill-mask": ["input_ids", "attention_mask"],
    }
    expected = inputs.get(task, ["input_ids", "attention_mask", "token_type_ids"])
    assert [spec.name for spec in model.signature.inputs] == expected
    assert model.signature.max_sequence == (None if task == "image-classification" else 40)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_decoder_folder_decodes_step_by_step_like_transformers(
    tmp_path: Path, family: str
) -> None:
    theirs: torch.nn.Module
    if family == "gpt2":
        settings = {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 100, "n_positions": 40}
        config = transformers.GPT2Config(bos_token_id=0, eos_token_id=0, **settings)
        theirs = transformers.GPT2LMHeadModel(config).eval()
    else:
        theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA)).eval()
    artifact, store = source(saved(tmp_path / "model", theirs))
    assert artifact.facts["kv_cache"] is True
    exported = export_onnx(artifact, store)
    signature = exported.signature
    feeds = signature.feeds({"batch": 2, "sequence": 6}, seed=1)
    ids = feeds["input_ids"]
    with torch.no_grad():
        want = theirs(input_ids=torch.from_numpy(ids)).logits.numpy()
    names = [spec.name for spec in signature.outputs]
    first = {**feeds, "input_ids": ids[:, :4], "attention_mask": np.ones((2, 4), np.int64)}
    logits, *cache = onnx_outputs(exported, first)
    np.testing.assert_allclose(logits, want[:, :4], atol=1e-5)
    past = [name.replace("present", "past_key_values") for name in names[1:]]
    for i in (4, 5):
        step = dict(zip(past, cache, strict=True))
        step |= {"input_ids": ids[:, i : i + 1], "attention_mask": np.ones((2, i + 1), np.int64)}
        logits, *cache = onnx_outputs(exported, step)
        np.testing.assert_allclose(logits[:, 0], want[:, i], atol=1e-5)


def test_a_decoder_with_a_sliding_window_is_taken_without_its_cache(tmp_path: Path) -> None:
    config = transformers.MistralConfig(sliding_window=4, **LLAMA)
    theirs = transformers.MistralForCausalLM(config).eval()
    artifact, store = source(saved(tmp_path / "model", theirs))
    assert artifact.facts["kv_cache"] is False
    exported = export_onnx(artifact, store)
    feeds = exported.signature.feeds({"batch": 2, "sequence": 13}, seed=1)
    assert list(feeds) == ["input_ids", "attention_mask"]
    with torch.no_grad():
        want = theirs(input_ids=torch.from_numpy(feeds["input_ids"])).logits
    np.testing.assert_allclose(onnx_outputs(exported, feeds)[0], want, atol=1e-5)


def test_half_precision_weights_on_disk_are_read_in_fp32(tmp_path: Path) -> None:
    config = transformers.BertConfig(num_labels=3, **BERT)
    module = transformers.BertForSequenceClassification(config).to(torch.float16)
    artifact, _ = source(saved(tmp_path / "model", module))
    model = load_model(artifact.folder)
    assert {p.dtype for p in model.module.parameters()} == {torch.float32}


def test_roberta_counts_its_positions_from_behind_the_padding(tmp_path: Path) -> None:
    config = transformers.RobertaConfig(**BERT)
    module = transformers.RobertaForSequenceClassification(config)
    artifact, _ = source(saved(tmp_path / "model", module))
    assert artifact.signature.max_sequence == 40 - 2


def test_the_names_of_its_classes_go_with_every_build(tmp_path: Path) -> None:
    names = {0: "positive", 1: "negative"}
    config = transformers.BertConfig(**BERT, id2label=names)
    folder = saved(tmp_path / "model", transformers.BertForSequenceClassification(config))
    artifact, store = source(folder)
    exported = export_onnx(artifact, store)
    assert artifact.labels == exported.labels == ("positive", "negative")
    assert source(bert(tmp_path / "unnamed"))[0].labels == ()
    # What exporters leave beside an ONNX file says it too.
    file = tmp_path / "alone" / "model.onnx"
    file.parent.mkdir()
    file.write_bytes((exported.folder / "model.onnx").read_bytes())
    assert source(file)[0].labels == ()
    (file.parent / "config.json").write_bytes((folder / "config.json").read_bytes())
    assert source(file)[0].labels == ("positive", "negative")


def test_the_key_is_the_content(tmp_path: Path) -> None:
    folder = bert(tmp_path / "model")
    (first, _), (again, _) = source(folder), source(folder)
    assert first.key == again.key
    module = transformers.BertForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        module.classifier.bias += 1
    module.save_pretrained(folder)
    assert source(folder)[0].key != first.key


def test_a_folder_without_safetensors_is_refused_and_its_pickle_not_read(tmp_path: Path) -> None:
    folder = bert(tmp_path / "model")
    state = transformers.BertForSequenceClassification.from_pretrained(folder).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="has no safetensors"):
        source(folder)


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path) -> None:
    folder = bert(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "mine"
    config["auto_map"] = {"AutoConfig": "code.Mine", "AutoModel": "code.Mine"}
    (folder / "config.json").write_text(json.dumps(config))
    marker = tmp_path / "executed"
    (folder / "code.py").write_text(f"open({str(marker)!r}, 'w')\n")
    with pytest.raises(InputError, match="contains custom code"):
        source(folder)
    assert not marker.exists()


def test_damaged_folders_are_told_in_one_line(tmp_path: Path) -> None:
    folder = bert(tmp_path / "model")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    with pytest.raises(InputError, match="cannot be loaded") as caught:
        source(folder)
    assert "\n" not in str(caught.value)
    weights.write_bytes(whole)
    (folder / "config.json").write_text("{ not json")
    with pytest.raises(InputError, match=r"config\.json"):
        source(folder)


def test_tasks_that_are_unknown_or_that_the_weights_do_not_serve_are_refused(
    tmp_path: Path,
) -> None:
    folder = bert(tmp_path / "model")
    with pytest.raises(InputError, match=r"unknown task 'cooking'; there are .*fill-mask"):
        source(folder, "cooking")
    with pytest.raises(InputError, match=r"has no weights for .*'fill-mask' needs"):
        source(folder, "fill-mask")
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["NoSuchModel"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"'NoSuchModel' is not one of transformers'"):
        source(folder)
    assert source(folder, "text-classification")[0].kind == "torch"


def test_an_encoder_with_a_decoder_is_unsupported(tmp_path: Path) -> None:
    config = transformers.T5Config(
        d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, vocab_size=50
    )
    folder = saved(tmp_path / "model", transformers.T5ForConditionalGeneration(config))
    with pytest.raises(Unsupported, match="encoder with a decoder"):
        source(folder)


def test_a_hub_that_cannot_be_reached_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    def unreachable(*_: object, **__: object) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("cannot reach the hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(InputError, match="'owner/name': no such folder here, and the model hub"):
        source_artifact(resolve("owner/name", base=tmp_path), Store(tmp_path))


def test_a_download_brings_the_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    folder = bert(tmp_path / "model")
    (folder / "tokenizer.json").write_text("{}")
    asked: list[str] = []

    def download(name: str, allow_patterns: list[str]) -> str:
        asked.extend(allow_patterns)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert model_tokenizer("owner/name", tmp_path) == folder / "tokenizer.json"
    assert "*.safetensors" not in asked  # data are prepared before the model is wanted
    source_artifact(resolve("owner/name", base=tmp_path), Store(tmp_path / "store"))
    assert {"tokenizer.json", "*.safetensors"} <= set(asked)


def test_parity_would_notice_wrong_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact, store = source(bert(tmp_path / "model"))
    rebuilt = hub.rebuild_hub
    calls = []

    def drifting(*arguments: object) -> torch.nn.Module:
        module = rebuilt(*arguments)
        module.register_forward_pre_hook(lambda m, _: calls.append(m) or drift(m, len(calls)))
        return module

    def drift(module: torch.nn.Module, call: int) -> None:
        if not torch.compiler.is_exporting():
            module.inner.classifier.bias.data += 0.5

    monkeypatch.setattr(hub, "rebuild_hub", drifting)
    with pytest.raises(Incorrect, match="'logits' differs by 0"):
        export_onnx(artifact, store)
