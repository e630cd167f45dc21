"""What counts as right, against values worked out by hand."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

from compile.errors import Incorrect
from quantize.recipe import Tolerance
from suites.correctness import compare, kl_divergence, require


def outputs(*rows: list[float]) -> dict[str, np.ndarray]:
    return {"logits": np.array(rows, np.float32)}


def test_errors_are_those_of_the_definition():
    found = compare([outputs([3.0, 4.5])], [outputs([3.0, 4.0])])
    assert found.max_abs_error == 0.5
    assert found.max_rel_error == 0.125
    assert found.relative_error == pytest.approx(0.1)
    assert found.snr_db == pytest.approx(20.0)
    assert found.top1_agreement == 1.0


def test_calls_are_pooled_by_power_not_averaged():
    found = compare([outputs([0.0, 5.0]), outputs([1.0, 0.0])], [outputs([0.0, 4.0])] * 2)
    assert found.relative_error == pytest.approx(math.sqrt((1 + 1 + 16) / 32))
    assert found.top1_agreement == 0.5
    assert found.predictions == 2


def test_divergence_of_a_fair_from_a_loaded_coin():
    fair, loaded = np.array([[0.0, 0.0]]), np.array([[math.log(3.0), 0.0]])
    expected = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert kl_divergence(fair, loaded) == pytest.approx([expected])
    assert kl_divergence(loaded + 1000, loaded) == pytest.approx([0.0])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_incorrect(bad):
    with pytest.raises(Incorrect, match="1 of 2 values"):
        compare([outputs([1.0, bad])], [outputs([1.0, 2.0])])


def test_reference_that_is_not_finite_is_incorrect():
    with pytest.raises(Incorrect, match="reference logits"):
        compare([outputs([1.0, 2.0])], [outputs([1.0, np.nan])])


def test_nan_is_seen_in_bfloat16_too():
    bad = {"logits": np.array([[1.0, np.nan]]).astype(ml_dtypes.bfloat16)}
    with pytest.raises(Incorrect, match="1 of 2 values"):
        compare([bad], [outputs([1.0, 2.0])])


def test_later_outputs_are_held_to_being_finite():
    cache = {"present": np.array([np.nan], np.float32)}
    with pytest.raises(Incorrect, match="'present'"):
        compare([outputs([1.0, 2.0]) | cache], [outputs([1.0, 2.0])])


def test_another_shape_is_incorrect():
    with pytest.raises(Incorrect, match="shape"):
        compare([outputs([1.0, 2.0, 3.0])], [outputs([1.0, 2.0])])


def test_floor_is_enforced_from_below_only():
    found = compare([outputs([3.0, 4.5])], [outputs([3.0, 4.0])])
    require(found, Tolerance(min_snr_db=19.9))
    with pytest.raises(Incorrect, match=r"20\.0 dB is below the recipe's 20\.1"):
        require(found, Tolerance(min_snr_db=20.1))


def test_agreement_floor_is_enforced():
    found = compare([outputs([1.0, 0.0], [1.0, 0.0])], [outputs([1.0, 0.0], [0.0, 1.0])])
    require(found, Tolerance(min_top1_agreement=0.5))
    with pytest.raises(Incorrect, match=r"50\.0%"):
        require(found, Tolerance(min_top1_agreement=0.6))
