"""The tasks: their batches, their scores against float64, and what they can resolve."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from compile.data import IGNORED
from compile.errors import InputError
from compile.signature import Signature, TensorSpec
from compile.train_settings import TrainSettings
from runtimes.likelihood import answers
from suites.tasks.classification import Classification
from suites.tasks.corpus import standard_library
from suites.tasks.examples import Examples, exact_windows, shuffled_batches
from suites.tasks.language import CausalLM, MaskedLM
from suites.tasks.prepared import Prepared, Vocabulary, load_prepared, save_prepared
from suites.tasks.registry import load_task
from suites.tasks.scoring import prior_resolution
from suites.tasks.task import Task

NAMES = ("classification", "masked-lm", "causal-lm")


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.fixture(scope="module", params=NAMES)
def task(request: pytest.FixtureRequest) -> Task:
    return load_task(request.param)


def small_task(kind: type[Task], rows: list[list[int]], labels: list[int] | None = None) -> Task:
    """A task whose every split holds these rows; token ``t`` stands for ``t`` bytes."""
    examples = Examples.of([np.array(row, np.int32) for row in rows], labels)
    vocabulary = Vocabulary(20, 0, 1, 2, (0, 1, 2))
    sizes = np.arange(20)
    splits = {"train": examples, "calibration": examples, "test": examples}
    data = Prepared(splits, vocabulary, 16, ("a", "b", "c"), sizes, "small")
    return kind("small", data, {"steps": 1})


def test_embedded_task_has_the_size_that_it_promises(task: Task) -> None:
    tokens = task.data.splits["test"].lengths
    if task.kind == "classification":
        assert task.test_examples >= 3200
        assert task.classes == ("constant", "docstring", "function", "method")
        assert np.bincount(task.data.splits["test"].labels).min() >= 300
    else:
        assert task.classes == ()
    assert 75_000 <= tokens.sum() <= 260_000
    assert tokens.max() <= task.max_length + (task.kind == "causal-lm")
    assert len(task.data.splits["calibration"]) >= 512
    assert task.vocabulary == 4096
    assert TrainSettings(**task.default_settings).steps > 0


def test_embedded_batches_are_well_formed_and_repeat(task: Task) -> None:
    for batches in (lambda: islice(task.training(8, 3), 5), lambda: islice(task.test(8), 5)):
        for first, second in zip(batches(), batches(), strict=True):
            for name, array in first.feeds.items():
                np.testing.assert_array_equal(array, second.feeds[name])
                assert array.dtype == np.int64
                assert array.flags.c_contiguous
            np.testing.assert_array_equal(first.labels, second.labels)
            ids, mask = first.feeds["input_ids"], first.feeds["attention_mask"]
            assert ((ids == 0) == (mask == 0)).all()
            assert (np.diff(mask, axis=1) <= 0).all()
            assert ids.shape[1] <= task.max_length
            if first.labels.ndim == 2:
                assert (first.labels[mask == 0] == IGNORED).all()
                assert (first.labels != IGNORED).any(axis=1).all()
    other = next(task.training(8, 4)).feeds["input_ids"]
    assert not np.array_equal(next(task.training(8, 3)).feeds["input_ids"], other)


def test_test_asks_the_same_of_each_example_whatever_the_batch_size() -> None:
    task = small_task(MaskedLM, [[5, 6, 7, 8], [9, 10, 11, 12, 13], [6] * 12])
    whole = next(task.test(3))
    for index, single in enumerate(task.test(1)):
        width = single.labels.shape[1]
        np.testing.assert_array_equal(single.labels[0], whole.labels[index, :width])
        ids = single.feeds["input_ids"][0]
        np.testing.assert_array_equal(ids, whole.feeds["input_ids"][index, :width])
        np.testing.assert_array_equal(ids == 2, single.labels[0] != IGNORED)


def test_masked_training_chooses_more_than_a_test_and_masks_as_bert_does() -> None:
    rows = [list(np.random.default_rng(i).integers(3, 20, 16)) for i in range(512)]
    task = small_task(MaskedLM, rows)
    batch = next(task.training(512, 0))
    chosen = batch.labels != IGNORED
    ids, labels = batch.feeds["input_ids"][chosen], batch.labels[chosen]
    assert chosen.mean() == pytest.approx(0.4, abs=0.02)
    assert (ids == 2).mean() == pytest.approx(0.8, abs=0.05)
    # One in twenty of the random tokens is the right one by chance.
    assert (ids == labels).mean() == pytest.approx(0.105, abs=0.03)
    untouched = batch.feeds["input_ids"][~chosen]
    assert not np.isin(untouched, [0, 1, 2]).any()


def test_causal_labels_are_the_next_tokens() -> None:
    task = small_task(CausalLM, [[1, 5, 6], [1, 7, 8, 9]])
    batch = next(task.test(2))
    np.testing.assert_array_equal(batch.feeds["input_ids"], [[1, 5, 0], [1, 7, 8]])
    np.testing.assert_array_equal(batch.labels, [[5, 6, IGNORED], [7, 8, 9]])


def test_bits_per_byte_equals_the_hand_computation() -> None:
    task = small_task(CausalLM, [[1, 5, 6], [1, 7, 8, 9]])
    batch = next(task.test(2))
    logits = np.random.default_rng(0).normal(size=(2, 3, 20)).astype(np.float32)
    logs = log_softmax(logits)
    first = -(logs[0, 0, 5] + logs[0, 1, 6])
    second = -(logs[1, 0, 7] + logs[1, 1, 8] + logs[1, 2, 9])
    scores = task.score(answers(logits, batch.labels), batch.labels)
    np.testing.assert_allclose(scores["nll"], [first, second], rtol=1e-6)
    np.testing.assert_array_equal(scores["tokens"], [2, 3])
    np.testing.assert_array_equal(scores["bytes"], [5 + 6, 7 + 8 + 9])
    summary = task.summary(scores)
    assert summary["bits_per_byte"] == pytest.approx((first + second) / math.log(2) / 35)
    assert summary["perplexity"] == pytest.approx(math.exp((first + second) / 5))


def test_uniform_guesses_cost_twelve_bits_a_token_on_the_embedded_text() -> None:
    task = load_task("causal-lm")
    batch = next(task.test(4))
    summary = task.summary(
        task.score(
            answers(np.zeros((*batch.labels.shape, 4096), np.float16), batch.labels), batch.labels
        )
    )
    tokens = int((batch.labels != IGNORED).sum())
    covered = sum(len(text.encode()) for text in _texts(batch.labels))
    assert summary["bits_per_byte"] == pytest.approx(12 * tokens / covered)
    assert summary["perplexity"] == pytest.approx(4096)


def _texts(labels: np.ndarray) -> list[str]:
    """What the asked tokens decode to; valid UTF-8, or the test above would not be exact."""
    from suites.tasks.tokenizer import embedded_tokenizer

    tokenizer = embedded_tokenizer(standard_library())
    texts = [tokenizer.decode([int(t) for t in row if t != IGNORED]) for row in labels]
    assert not any("�" in text for text in texts)
    return texts


def test_token_bytes_add_up_to_every_text_even_a_hostile_one() -> None:
    from suites.tasks.tokenizer import embedded_tokenizer, token_bytes

    tokenizer = embedded_tokenizer(standard_library())
    sizes = token_bytes(tokenizer)
    for text in ("", "\0\x1b[31m\r\n\u202e", "🤷🏽‍♀️ e\u0301", "[MASK]x"[1:], "Ġ Ċ", "\t" * 999):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert sizes[ids].sum() == len(text.encode())
        assert tokenizer.decode(ids) == text


def test_classification_scores_equal_float64() -> None:
    task = small_task(Classification, [[1, 5], [1, 6], [1, 7]], [0, 2, 1])
    logits = np.array([[3.0, 1.0, 0.0], [90.0, -90.0, 88.0], [0.0, 1.0, 1.0]], np.float32)
    labels = next(task.test(3)).labels
    scores = task.score(answers(logits, labels), labels)
    np.testing.assert_array_equal(scores["correct"], [True, False, True])
    np.testing.assert_array_equal(scores["predicted"], [0, 0, 1])
    expected = -log_softmax(logits)[np.arange(3), labels]
    np.testing.assert_allclose(scores["nll"], expected, rtol=1e-6)
    assert task.summary(scores) == pytest.approx({"accuracy": 2 / 3, "nll": expected.mean()})


def test_resolution_equals_the_formulas_by_hand() -> None:
    assert prior_resolution(3384, math.sqrt(0.02)) == pytest.approx(
        1.6448536 * math.sqrt(0.02 / 3384)
    )
    assert prior_resolution(1000, 0.0) == pytest.approx(-math.log(0.05) / 1000)


def test_resolution_covers_the_true_drop_at_its_confidence() -> None:
    """Of 2,000 simulated comparisons about 95 % have their bound above the true drop."""
    random = np.random.default_rng(5)
    task = small_task(Classification, [[1, 5]] * 3500, [0] * 3500)
    covered = 0
    for _ in range(2000):
        before = random.random(3500) < 0.9
        after = np.where(random.random(3500) < 0.04, ~before, before)
        true = 0.9 - (0.9 * 0.96 + 0.1 * 0.04)
        width = task.resolution({"correct": before}, {"correct": after})
        covered += before.mean() - after.mean() + width >= true
    assert covered / 2000 == pytest.approx(0.95, abs=0.02)


def test_task_resolves_half_a_point_when_nothing_is_measured_yet(task: Task) -> None:
    assert 0 < task.resolution() < 0.005
    assert task.resolution(confidence=0.99) > task.resolution()


def test_fitted_feeds_follow_the_signature() -> None:
    specs = (
        TensorSpec("position_ids", "int32", ("batch", "sequence")),
        TensorSpec("input_ids", "int64", ("batch", "sequence")),
        TensorSpec("past_key_values.0.key", "float16", ("batch", 2, "past", 8)),
    )
    task = small_task(CausalLM, [[1, 5, 6]]).for_signature(Signature(specs, (), 64))
    for feeds in (
        next(task.test(1)).feeds,
        next(task.calibration(1)),
        next(task.training(1, 0))[0],
    ):
        assert list(feeds) == [spec.name for spec in specs]
        assert feeds["past_key_values.0.key"].shape == (1, 2, 0, 8)
        assert feeds["past_key_values.0.key"].dtype == np.float16
        np.testing.assert_array_equal(feeds["position_ids"], np.array([[0, 1]], np.int32))


def test_for_signature_refuses_what_text_cannot_feed() -> None:
    task = small_task(CausalLM, [[1, 5, 6]])
    image = Signature((TensorSpec("pixel_values", "float32", ("batch", 3, 8, 8)),), ())
    with pytest.raises(InputError, match="pixel_values"):
        task.for_signature(image)
    short = Signature((TensorSpec("input_ids", "int64", ("batch", "sequence")),), (), 8)
    with pytest.raises(InputError, match="up to 16 tokens; the model takes 8"):
        task.for_signature(short)


@pytest.mark.parametrize(("batch", "sequence"), [(1, 1), (8, 128), (2, 400_000)])
def test_workload_feeds_have_exactly_the_sizes_and_no_padding(batch: int, sequence: int) -> None:
    task = load_task("classification")
    feeds = task.workload_feeds(batch, sequence, 0)
    assert feeds["input_ids"].shape == (batch, sequence)
    assert feeds["attention_mask"].all()
    assert not (feeds["input_ids"] == 0).any()
    np.testing.assert_array_equal(
        feeds["input_ids"], task.workload_feeds(batch, sequence, 0)["input_ids"]
    )


def test_exact_windows_are_runs_of_the_stream() -> None:
    windows = exact_windows(np.arange(50), 6, 9, 1)
    assert (np.diff(windows, axis=1) == 1).all()
    assert len(set(windows[:, 0])) > 1


def test_shuffled_batches_use_every_example_once_an_epoch_and_bucket_by_length() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 1030)
    batches = list(islice(shuffled_batches(lengths, 8, 0), 128))
    assert len(np.unique(np.concatenate(batches))) == 1024
    spread = np.mean([np.ptp(lengths[batch]) for batch in batches])
    assert spread < 0.25 * np.ptp(lengths)
    few = next(shuffled_batches(np.array([3, 1]), 8, 0))
    assert sorted(few) == [0, 1]


def test_calibration_refuses_more_examples_than_there_are() -> None:
    task = small_task(Classification, [[1, 5]], [0])
    assert len(list(task.calibration(1))) == 1
    with pytest.raises(InputError, match="has 1 examples to calibrate on"):
        next(task.calibration(2))


def test_unknown_task_is_refused_with_those_that_exist() -> None:
    with pytest.raises(InputError, match=r"unknown task 'clasification'.*did you mean 'classific"):
        load_task("clasification")


def test_prepared_data_survives_its_file(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path))
    data = replace(
        small_task(Classification, [[1, 5], [1, 6, 7]], [0, 2]).data,
        vocabulary=Vocabulary(20, 0, None, 2, (0, 2)),
    )
    calls: list[Path] = []

    def make(draft: Path) -> None:
        calls.append(draft)
        save_prepared(data, draft)

    for _ in range(2):
        loaded = load_prepared({"of": "test"}, make)
        assert loaded.vocabulary == data.vocabulary
        assert loaded.labels == data.labels
        assert loaded.max_length == 16
        np.testing.assert_array_equal(loaded.splits["test"][1], [1, 6, 7])
        np.testing.assert_array_equal(loaded.token_bytes, np.arange(20))
    assert len(calls) == 1
    assert load_prepared({"of": "another"}, make).fingerprint != loaded.fingerprint


def test_cache_keeps_nothing_when_making_fails(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path))

    def make(draft: Path) -> None:
        draft.write_bytes(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        load_prepared({"of": "failure"}, make)
    assert [path.suffix for path in (tmp_path / "data").iterdir()] in ([".lock"], [])


def test_a_language_model_is_judged_by_its_metric_not_by_its_likeliest_tokens() -> None:
    task = small_task(CausalLM, [[1, 5, 6]] * 4)
    reference = {
        "tokens": np.array([10, 10, 10, 10]),
        "correct": np.array([5, 5, 5, 5]),
        "nll": np.array([20.0, 30.0, 25.0, 25.0]),
        "bytes": np.array([40, 40, 40, 40]),
    }
    worse = {**reference, "nll": 1.5 * reference["nll"]}
    found = task.drop(reference, worse)
    before, after = (task.summary(s)["bits_per_byte"] for s in (reference, worse))
    assert found.drop == pytest.approx(after / before - 1) == pytest.approx(0.5)
    assert found.upper > 0.5
    assert task.drop(reference, reference).drop == 0.0


def test_a_masked_model_loses_what_its_accuracy_loses_whatever_its_sequences_weigh() -> None:
    task = small_task(MaskedLM, [[1, 5, 6]] * 3)
    nll = np.ones(3)
    before = {"tokens": np.array([10, 1, 6]), "correct": np.array([5, 0, 3]), "nll": nll}
    after = {"tokens": np.array([10, 1, 6]), "correct": np.array([7, 0, 2]), "nll": nll}
    accuracy = [task.summary(scores)["accuracy"] for scores in (before, after)]
    assert task.drop(before, after).drop == pytest.approx(accuracy[0] - accuracy[1])
