"""Which class of a model a label is, and what a known classifier then scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from compile.artifact import Artifact, LineageEntry
from compile.errors import InputError
from compile.models.labels import label_names
from compile.signature import Signature, TensorSpec
from runtimes.likelihood import answers
from suites.suite_file import TaskEntry
from suites.tasks.classes import classes_of, in_order
from suites.tasks.corpus import standard_library
from suites.tasks.registry import load_task
from suites.tasks.tokenizer import embedded_tokenizer

WORDS = ["import", "return", "class", "def", "from", "self"]
WORDS += ["None", "True", "False", "raise", "yield", "while"]
TEN = tuple(str(k) for k in range(10))


def classifier(count: int, labels: tuple[str, ...] = ()) -> Artifact:
    """The manifest of a classifier for Assay's own tokens; nothing is ever run of it."""
    signature = Signature(
        (TensorSpec("input_ids", "int64", ("batch", "sequence"), 4096),),
        (TensorSpec("logits", "float32", ("batch", count)),),
    )
    source = LineageEntry("k", "source", 1, {}, "", {}, {"labels": list(labels)}, 0.0, 0)
    return Artifact(Path("nowhere"), "k", "torch", signature, (source,), {})


def first_words(tokenizer: Tokenizer) -> list[int]:
    return [tokenizer.encode(f"{word} 1", add_special_tokens=False).ids[0] for word in WORDS]


def accuracy_of_a_perfect_model(
    folder: Path, names: list, model: Artifact, logit_of_word: list[int], **entry: object
) -> float:
    """A model that knows each text by its first word, and whose logit for word ``i`` is
    ``logit_of_word[i]``, on data in which word ``i`` has the label ``names[i]``."""
    count = len(names)
    rows = [{"text": f"{WORDS[i % count]} {i} {i}", "label": names[i % count]} for i in range(1200)]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = TaskEntry(kind="classification", data="data.jsonl", max_length=16, **entry)
    task = load_task(table, folder).for_artifact(model)
    words = first_words(embedded_tokenizer(standard_library()))
    right, total = 0, 0
    for batch in task.test(64):
        seen = [words.index(token) for token in batch.feeds["input_ids"][:, 1]]
        logits = np.zeros((len(seen), model.signature.outputs[0].shape[1]), np.float32)
        logits[np.arange(len(seen)), [logit_of_word[i] for i in seen]] = 9
        right += int(task.score(answers(logits, batch.labels), batch.labels)["correct"].sum())
        total += len(seen)
    return right / total


def test_label_k_of_whole_numbers_is_class_k(tmp_path: Path) -> None:
    """As text, 10 and 11 come before 2: a perfect model would have an accuracy of 0.18."""
    names = list(range(12))
    assert accuracy_of_a_perfect_model(tmp_path, names, classifier(12), names) == 1.0


@pytest.mark.parametrize(
    ("model_names", "entry", "logits"),
    [
        (("positive", "negative"), {}, [0, 1]),
        (("POSITIVE", "NEGATIVE"), {}, [0, 1]),
        ((), {"labels": ("positive", "negative")}, [0, 1]),
        ((), {}, [1, 0]),
    ],
    ids=["model", "model-in-capitals", "listed", "text-order"],
)
def test_text_labels_are_the_classes_that_are_named_so(
    tmp_path: Path, model_names: tuple[str, ...], entry: dict, logits: list[int]
) -> None:
    model = classifier(2, model_names)
    names = ["positive", "negative"]
    assert accuracy_of_a_perfect_model(tmp_path, names, model, logits, **entry) == 1.0


@pytest.mark.parametrize(
    ("labels", "model", "listed", "count", "expected"),
    [
        (("0", "1", "3"), (), (), 4, (0, 1, 3)),
        (("0", "1", "3"), (), (), None, (0, 1, 3)),
        # Nobody names the classes and no other order is possible: a model trained here.
        (("0", "1", "3"), (), (), 3, (0, 1, 2)),
        (("-1", "1"), (), (), 2, (0, 1)),
        # The model's names are numbers from one on, and the data lacks the third.
        (("1", "2"), ("1", "2", "3"), (), 3, (0, 1)),
        (("1.0", "2.0"), (), (), 3, (1, 2)),
        (("0", "1"), ("bad", "good"), (), 2, (0, 1)),
        (("bad",), ("good", "bad", "odd"), (), 3, (1,)),
        # What the model calls otherwise the user can name.
        (("neg", "pos"), ("good", "bad"), ("pos", "neg"), 2, (1, 0)),
        # Case decides where it can.
        (("a", "A"), ("A", "a"), (), 2, (1, 0)),
    ],
)
def test_class_of_each_label(labels, model, listed, count, expected) -> None:
    assert classes_of(labels, model, listed, count) == expected


@pytest.mark.parametrize(
    ("labels", "model", "listed", "count", "message"),
    [
        (("a", "b"), ("x", "y"), (), 2, r"'a', 'b' .* has 2 classes, 'x', 'y'; .*labels = \["),
        (("a", "b"), (), ("a", "c"), 2, r"labels = \['a', 'c'\] lacks 'b'"),
        (("a", "b", "c"), (), (), 2, r"'a', 'b', 'c' .* which has 2 classes"),
        (("0", "5"), (), (), 3, r"'0', '5' .* which has 3 classes"),
        (("a", "b"), (), ("a", "b"), 3, r"'a', 'b' are 2 names for the model's 3 classes"),
        (TEN, ("x", "y"), (), 2, r"'4', '5', \.\.\. \(10\) are not"),
        (("Ab", "c"), ("aB", "ab", "c"), (), 3, "are not those of the model"),
    ],
)
def test_labels_that_are_no_classes_are_refused_with_both_lists(
    labels, model, listed, count, message
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        classes_of(labels, model, listed, count)
    assert "\n" not in str(caught.value)


def test_labels_are_in_order_of_their_value_only_where_all_have_one() -> None:
    assert in_order(["10", "9", "-1", "9"]) == ("-1", "9", "10")
    assert in_order(["10", "9", "x"]) == ("10", "9", "x")
    assert in_order(["1", "1.0", "10", "9"]) == ("1", "1.0", "10", "9")


def test_listed_labels_are_other_data(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text(
        "\n".join(json.dumps({"text": f"text {i}", "label": "ab"[i % 2]}) for i in range(200))
    )
    entry = {"kind": "classification", "data": "d.jsonl", "max_length": 16}
    plain = load_task(TaskEntry(**entry), tmp_path)
    swapped = load_task(TaskEntry(**entry, labels=("b", "a")), tmp_path)
    assert plain.fingerprint != swapped.fingerprint
    assert (plain.classes, swapped.classes) == (("a", "b"), ("b", "a"))
    with pytest.raises(InputError, match=r"task 'd\.jsonl': .* which has 3 classes"):
        plain.for_artifact(classifier(3))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"id2label": {"1": "good", "0": "bad"}}, ("bad", "good")),
        ({"id2label": {0: "bad", 1: "good"}}, ("bad", "good")),
        ({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, ()),
        ({"id2label": {"0": "bad", "2": "good"}}, ()),
        ({"id2label": ["bad", "good"]}, ()),
        ({}, ()),
    ],
)
def test_names_of_a_configuration(config: dict, expected: tuple[str, ...]) -> None:
    assert label_names(config) == expected
