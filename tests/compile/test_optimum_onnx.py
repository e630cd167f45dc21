"""Our export beside optimum-onnx's, and its files as models to start from.

optimum-onnx cannot be installed beside a current transformers: ``tox run -e optimum`` has it.
"""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import transformers

from compile.artifact import Artifact, Store
from compile.export import export_onnx
from compile.models.resolve import resolve
from compile.models.source import source_artifact
from compile.parity import parity_feeds
from compile.signature import Feeds

# Found, not imported: one that is there and broken must fail, not be skipped.
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("optimum.exporters.onnx") is None,
    reason="optimum-onnx is not installed; tox run -e optimum",
)

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 100,
    "max_position_embeddings": 40,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("optimum")


@pytest.fixture(scope="module")
def store(folder: Path) -> Store:
    return Store(folder / "store")


@pytest.fixture(scope="module")
def bert(folder: Path) -> Path:
    config = transformers.BertConfig(num_labels=3, **SIZES)
    transformers.BertForSequenceClassification(config).save_pretrained(folder / "bert")
    return exported(folder / "bert", "text-classification")


@pytest.fixture(scope="module")
def llama(folder: Path) -> Path:
    config = transformers.LlamaConfig(num_key_value_heads=2, **SIZES)
    transformers.LlamaForCausalLM(config).save_pretrained(folder / "llama")
    return exported(folder / "llama", "text-generation-with-past")


def exported(model: Path, task: str) -> Path:
    """A transformers folder, and in it optimum-onnx's export of it."""
    from optimum.exporters.onnx import main_export

    with warnings.catch_warnings():  # what tracing warns of, the comparisons find out
        warnings.simplefilter("ignore")
        main_export(str(model), output=str(model / "theirs"), task=task, do_validation=False)
    return model


def ours(model: Path, store: Store) -> Artifact:
    return export_onnx(source_artifact(resolve(str(model), base=model), store), store)


def theirs(model: Path, store: Store) -> Artifact:
    """Their file as a suite names it: ``source = "theirs/model.onnx"``."""
    return source_artifact(resolve("theirs/model.onnx", base=model), store)


def outputs(path: Path, feeds: Feeds) -> Feeds:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    taken = {value.name: feeds[value.name] for value in session.get_inputs()}
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, taken), strict=True))


def test_both_exports_give_the_same_outputs(bert: Path, store: Store) -> None:
    artifact = ours(bert, store)
    tried = list(parity_feeds(artifact.signature))
    assert len(tried) == 4
    for _, feeds in tried:
        mine = outputs(artifact.folder / "model.onnx", feeds)
        other = outputs(bert / "theirs" / "model.onnx", feeds)
        assert list(mine) == list(other) == ["logits"]
        np.testing.assert_allclose(mine["logits"], other["logits"], atol=1e-4, rtol=0)


def test_their_encoder_is_a_model_to_start_from(bert: Path, store: Store) -> None:
    artifact, mine = theirs(bert, store), ours(bert, store)
    assert artifact.kind == "onnx"
    assert [spec.shape for spec in artifact.signature.inputs] == [("batch", "sequence")] * 3
    assert artifact.signature.outputs == mine.signature.outputs
    # Its file does not say how many positions it has; our folder's configuration does.
    assert artifact.signature.max_sequence == mine.signature.max_sequence == 40
    feeds = artifact.signature.feeds({"batch": 3, "sequence": 40})
    taken = outputs(artifact.folder / "model.onnx", feeds)["logits"]
    wanted = outputs(mine.folder / "model.onnx", feeds)["logits"]
    np.testing.assert_allclose(taken, wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("sequence", "past"), [(7, 0), (1, 6)])
def test_their_decoder_is_one_graph_for_prefill_and_decode(
    llama: Path, store: Store, sequence: int, past: int
) -> None:
    artifact, mine = theirs(llama, store), ours(llama, store)
    assert artifact.signature.axes == {"batch", "sequence", "past", "total"}
    assert artifact.signature.outputs == mine.signature.outputs
    feeds = mine.signature.feeds({"batch": 2, "sequence": sequence, "past": past})
    # Where ours counts positions by the mask, theirs is told them.
    feeds["position_ids"] = np.tile(np.arange(past, past + sequence), (2, 1))
    taken = outputs(artifact.folder / "model.onnx", feeds)
    wanted = outputs(mine.folder / "model.onnx", feeds)
    assert list(taken) == list(wanted)
    for name, value in wanted.items():
        np.testing.assert_allclose(taken[name], value, atol=1e-4, rtol=0, err_msg=name)
