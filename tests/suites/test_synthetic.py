"""Inputs to calibrate on where there is no task."""

from __future__ import annotations

import numpy as np
import pytest

from compile.errors import InputError
from compile.signature import Signature, TensorSpec
from suites.tasks.synthetic import LENGTHS, Synthetic

TOKENS = Signature(
    inputs=(
        TensorSpec("input_ids", "int64", ("batch", "sequence"), high=50),
        TensorSpec("attention_mask", "int64", ("batch", "total"), fill="ones"),
        TensorSpec("past_key_values.0.key", "float32", ("batch", 2, "past", 4)),
    ),
    outputs=(TensorSpec("logits", "float32", ("batch", "sequence", 50)),),
    max_sequence=48,
)


def test_examples_come_one_at_a_time_in_several_lengths_within_the_models_maximum():
    feeds = list(Synthetic(TOKENS).calibration(5))
    assert [each["input_ids"].shape for each in feeds] == [
        (1, 16),
        (1, 32),
        (1, 48),
        (1, 48),
        (1, 16),
    ]
    assert all(each["past_key_values.0.key"].shape == (1, 2, 0, 4) for each in feeds)
    assert all(0 <= each["input_ids"].min() <= each["input_ids"].max() < 50 for each in feeds)
    assert not np.array_equal(feeds[0]["input_ids"], feeds[4]["input_ids"])


def test_examples_are_always_the_same_ones():
    first, second = (list(Synthetic(TOKENS).calibration(3)) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name], other[name]) for name in one)


def test_axes_without_a_meaning_are_of_size_one():
    image = Signature((TensorSpec("x", "float32", ("batch", 3, "rows")),), ())
    [feeds] = Synthetic(image).calibration(1)
    assert feeds["x"].shape == (1, 3, 1)


def test_fingerprint_is_the_signatures():
    assert Synthetic(TOKENS).fingerprint == Synthetic(TOKENS).fingerprint
    other = Signature(TOKENS.inputs, TOKENS.outputs, max_sequence=64)
    assert Synthetic(other).fingerprint != Synthetic(TOKENS).fingerprint
    assert len(LENGTHS) == 4


def test_nothing_is_trained_on_them():
    with pytest.raises(InputError, match="give the model a task"):
        Synthetic(TOKENS).training(8, 0)
