"""Logits reduced to likelihoods: against float64, and over the wire."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from compile.data import IGNORED
from compile.errors import Incorrect
from compile.signature import Signature
from runtimes.client import Worker
from runtimes.fake import Behaviour, write_fake
from runtimes.likelihood import answers, cross_entropy


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_cross_entropy_equals_float64_when_there_are_more_rows_than_one_chunk() -> None:
    random = np.random.default_rng(1)
    logits = random.normal(0, 8, (3, 1000, 7)).astype(np.float16)
    labels = random.integers(0, 7, (3, 1000))
    labels[random.random((3, 1000)) < 0.2] = IGNORED
    nll, predicted = cross_entropy(logits, labels)
    asked = labels != IGNORED
    logs = np.take_along_axis(log_softmax(logits), np.where(asked, labels, 0)[..., None], -1)[
        ..., 0
    ]
    np.testing.assert_allclose(nll, np.where(asked, -logs, 0), atol=1e-5)
    np.testing.assert_array_equal(predicted, np.where(asked, logits.argmax(-1), IGNORED))


def test_cross_entropy_is_nan_when_the_logits_are() -> None:
    nll, _ = cross_entropy(np.array([[np.nan, 0.0], [0.0, 0.0]], np.float32), np.array([1, 1]))
    assert np.isnan(nll[0])
    assert nll[1] == pytest.approx(math.log(2))


@pytest.mark.parametrize("labels", [np.array([0, 3]), np.array([0, -1]), np.array([0])])
def test_cross_entropy_refuses_labels_that_do_not_fit(labels: np.ndarray) -> None:
    with pytest.raises(ValueError):
        cross_entropy(np.zeros((2, 3)), labels)


def test_answers_leave_out_the_padding_of_rows_and_columns() -> None:
    random = np.random.default_rng(2)
    logits = random.normal(0, 2, (4, 6, 5)).astype(np.float32)
    labels = random.integers(0, 5, (3, 4))
    reduced = answers(logits, labels)
    nll, predicted = cross_entropy(np.ascontiguousarray(logits[:3, :4]), labels)
    np.testing.assert_array_equal(reduced.nll, nll)
    np.testing.assert_array_equal(reduced.predicted, predicted)
    assert reduced.logits is None


def test_answers_keep_the_logits_of_a_classifier() -> None:
    logits = np.array([[0.5, 2.0], [1.0, -1.0], [9.0, 9.0]], np.float16)
    reduced = answers(logits, np.array([1, 1]))
    assert reduced.logits is not None
    assert reduced.logits.dtype == np.float32
    np.testing.assert_array_equal(reduced.logits, logits[:2])
    np.testing.assert_array_equal(reduced.predicted, [1, 0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_answers_refuse_logits_that_are_not_finite(bad: float) -> None:
    with pytest.raises(Incorrect, match="not finite"):
        answers(np.array([[0.0, bad]], np.float32), np.array([0]))


def test_padding_may_hold_anything() -> None:
    reduced = answers(np.array([[0.0, 1.0], [np.nan, np.nan]], np.float32), np.array([1]))
    assert reduced.nll == pytest.approx([math.log(1 + math.exp(-1))])


def test_worker_answers_with_likelihoods(
    start: Callable[..., Worker], tmp_path: Path, linear_signature: Signature
) -> None:
    write_fake(tmp_path / "fake", linear_signature, Behaviour(latency_ms=0))
    worker = start("fake")
    worker.open(tmp_path / "fake")
    labels = np.array([31, 0])
    reduced = worker.answer(linear_signature.feeds({"batch": 2}), labels)
    ramp = np.tile(np.arange(32.0), (2, 1))
    expected = -log_softmax(ramp)[np.arange(2), labels]
    np.testing.assert_allclose(reduced.nll, expected, rtol=1e-6)
    np.testing.assert_array_equal(reduced.predicted, [31, 31])
    np.testing.assert_array_equal(reduced.logits, ramp)


def test_worker_refuses_answers_that_are_not_finite(
    start: Callable[..., Worker], tmp_path: Path, linear_signature: Signature
) -> None:
    write_fake(tmp_path / "fake", linear_signature, Behaviour(latency_ms=0, fault="nan"))
    worker = start("fake")
    worker.open(tmp_path / "fake")
    with pytest.raises(Incorrect, match="not finite"):
        worker.answer(linear_signature.feeds({"batch": 2}), np.array([0, 0]))
