"""Whose tokenizer a task's texts are cut with, and whose special tokens they get."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from compile.artifact import Artifact, LineageEntry
from compile.errors import InputError
from compile.models.hub_files import model_tokenizer
from compile.signature import Signature, TensorSpec
from suites.suite_file import TaskEntry
from suites.tasks.registry import load_task
from suites.tasks.task import Task
from suites.tasks.tokenizer import padding_token, vocabulary

PAD, FIRST, LAST, UNKNOWN = 7, 21, 22, 3
VOCABULARY = 30


@pytest.fixture
def theirs() -> Tokenizer:
    """A tokenizer whose special tokens have neither Assay's names nor Assay's ids."""
    ids = {"<open>": FIRST, "<close>": LAST, "<nothing>": PAD, "<odd>": UNKNOWN}
    words = {word: 9 + i for i, word in enumerate(("film", "good", "bad", "was"))}
    vocab = {**ids, **words, "last": VOCABULARY - 1}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<odd>"))
    tokenizer.add_special_tokens(list(ids))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<open> $A <close>", special_tokens=[("<open>", FIRST), ("<close>", LAST)]
    )
    return tokenizer


@pytest.fixture
def entry(tmp_path: Path) -> TaskEntry:
    rows = [
        {"text": f"film was {word}" + " good" * (i % 5) + f" {i}", "label": word}
        for i in range(100)
        for word in ("good", "bad")
    ]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return TaskEntry(kind="classification", data="data.jsonl", max_length=16)


@pytest.fixture
def folder(tmp_path: Path, theirs: Tokenizer) -> Path:
    """A transformers model's folder as far as it matters here."""
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text("{}")
    theirs.save(str(path / "tokenizer.json"))
    said = {"pad_token": {"content": "<nothing>"}}
    (path / "tokenizer_config.json").write_text(json.dumps(said))
    return path


def artifact(high: int | None, family: str = "hub") -> Artifact:
    """The manifest of a classifier of two classes that takes ids below ``high``."""
    names = ("input_ids", "attention_mask", "token_type_ids")
    signature = Signature(
        tuple(TensorSpec(name, "int64", ("batch", "sequence"), high) for name in names),
        (TensorSpec("logits", "float32", ("batch", 2)),),
    )
    source = LineageEntry("k", "source", 1, {"family": family}, "", {}, {}, 0.0, 0)
    return Artifact(Path("nowhere"), "k", "torch", signature, (source,), {})


def check_theirs(task: Task, theirs: Tokenizer) -> None:
    """The test split is what their own tokenizer says, padded with their token."""
    batch = next(task.for_artifact(artifact(VOCABULARY)).test(64))
    assert list(batch.feeds) == ["input_ids", "attention_mask", "token_type_ids"]
    ids, mask = batch.feeds["input_ids"], batch.feeds["attention_mask"]
    assert (mask == 0).any()
    np.testing.assert_array_equal(ids == PAD, mask == 0)
    for row, present in zip(ids, mask, strict=True):
        kept = row[present == 1].tolist()
        assert (kept[0], kept[-1]) == (FIRST, LAST)
        words = theirs.decode(kept[1:-1]).split()
        assert kept == theirs.encode(" ".join([*words, "5"])).ids
    assert not batch.feeds["token_type_ids"].any()


def test_the_models_own_tokenizer_is_used_where_nobody_names_one(
    tmp_path: Path, entry: TaskEntry, folder: Path, theirs: Tokenizer
) -> None:
    own = model_tokenizer("model", tmp_path)
    assert own == folder / "tokenizer.json"
    (tmp_path / "model" / "x.onnx").write_bytes(b"")
    assert model_tokenizer("model/x.onnx", tmp_path) == own
    check_theirs(load_task(entry, tmp_path, own), theirs)
    named = entry.model_copy(update={"tokenizer": "model"})
    check_theirs(load_task(named, tmp_path), theirs)


def test_models_without_a_tokenizer_have_none(tmp_path: Path, folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (tmp_path / "file.py").write_text("")
    for source in ("model", "encoder-small", "file.py:factory"):
        assert model_tokenizer(source, tmp_path) is None
    with pytest.raises(InputError, match="there is no file"):
        model_tokenizer("nowhere.onnx", tmp_path)


@pytest.mark.parametrize("high", [4095, 30522, None])
@pytest.mark.parametrize("family", ["hub", "onnx", "user"])
def test_the_embedded_tokenizer_is_refused_by_a_model_of_another_vocabulary(
    tmp_path: Path, entry: TaskEntry, high: int | None, family: str
) -> None:
    task = load_task(entry, tmp_path)
    message = r"task 'data\.jsonl' has the embedded .* 4,096 tokens, .*takes .*: name .*tokenizer ="
    with pytest.raises(InputError, match=message) as caught:
        task.for_artifact(artifact(high, family))
    assert "\n" not in str(caught.value)
    task.for_artifact(artifact(4096, family))


def test_who_says_that_the_model_was_made_for_it_is_believed(
    tmp_path: Path, entry: TaskEntry
) -> None:
    task = load_task(entry.model_copy(update={"tokenizer": "embedded"}), tmp_path)
    # A factory's example inputs may not hold the last token; a table's rows are counted.
    task.for_artifact(artifact(4000, "user"))
    task.for_artifact(artifact(5000, "onnx"))
    with pytest.raises(InputError, match=r"has 4,096 tokens, more than the 4,000 that the model"):
        task.for_artifact(artifact(4000, "onnx"))


def test_a_random_model_of_a_published_size_takes_any_smaller_vocabulary() -> None:
    task = load_task("masked-lm")
    task.for_artifact(artifact(30522, "transformer"))
    with pytest.raises(InputError, match="more than the 100"):
        task.for_artifact(artifact(100, "transformer"))


def test_special_tokens_are_found_where_the_files_say(tmp_path: Path, theirs: Tokenizer) -> None:
    assert vocabulary(theirs, "<nothing>").pad == PAD
    assert vocabulary(theirs).first == FIRST
    file = tmp_path / "tokenizer.json"
    theirs.save(str(file))
    assert padding_token(file) is None
    (tmp_path / "tokenizer_config.json").write_text('{"pad_token": "<close>"}')
    assert padding_token(tmp_path) == "<close>"
    theirs.enable_padding(pad_id=PAD, pad_token="<nothing>")
    theirs.save(str(file))
    assert padding_token(file) == "<nothing>"
    (tmp_path / "tokenizer_config.json").write_text("[]")
    theirs.no_padding()
    theirs.save(str(file))
    assert padding_token(file) is None
