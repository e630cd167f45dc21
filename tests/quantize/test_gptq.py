from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from quantize.rounding.gptq import factors, gptq
from quantize.rounding.rtn import round_to_nearest

Array = NDArray[np.floating]


def weight(rows: int, columns: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


def correlated(rows: int, count: int = 2048, seed: int = 1) -> Array:
    """Inputs whose power falls from one direction to the next, as activations' does."""
    random = np.random.default_rng(seed)
    mixing = random.standard_normal((rows, rows)) * np.arange(1, rows + 1)[:, None] ** -0.7
    return (random.standard_normal((count, rows)) @ mixing).astype(np.float32)


def gram_of(inputs: Array) -> Array:
    return inputs.T @ inputs / len(inputs)


def decibels(matrix: Array, rounded: Array, inputs: Array) -> float:
    wide = inputs.astype(np.float64)
    outputs, error = wide @ matrix, wide @ (rounded.astype(np.float64) - matrix)
    return float(10 * np.log10((outputs**2).sum() / (error**2).sum()))


def one_by_one(
    matrix: Array, gram: Array, block: int, symmetric: bool, bits: int, damping: float
) -> Array:
    """Optimal Brain Quantization in the order of the rows, as its paper tells it: after each row
    the inverse of what is left is computed anew. float64, (K, N)."""
    work, hessian = matrix.astype(np.float64), gram.astype(np.float64)
    hessian = hessian + damping * np.diag(hessian).mean() * np.eye(len(hessian))
    grid = round_to_nearest(matrix, block, symmetric, bits).grid
    result = np.empty_like(work)
    for row in range(len(work)):
        inverse = np.linalg.inv(hessian[row:, row:])
        result[row] = grid.row(work[row].astype(np.float32), row // block)[1]
        error = (work[row] - result[row]) / inverse[0, 0]
        work[row:] -= np.outer(inverse[:, 0], error)
    return result


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("rows", [48, 150, 260])
def test_agrees_with_brain_surgery_row_by_row(symmetric: bool, bits: int, rows: int) -> None:
    """More rows than one lazy stretch, and a last block that is filled in part only."""
    inputs = correlated(rows)
    # Already in the order of their power, so that the reference need not sort.
    inputs = inputs[:, np.argsort(-np.square(inputs).sum(0), kind="stable")]
    matrix, gram = weight(rows, 12), gram_of(inputs)
    expected = one_by_one(matrix, gram, 32, symmetric, bits, 0.01)
    got = gptq(matrix, gram, 32, symmetric, bits).dequantize()
    # A weight halfway between two codes may fall to either side, and moves those behind it.
    same = np.isclose(got, expected, rtol=1e-5, atol=1e-6).mean()
    assert same > 0.97
    assert decibels(matrix, got, inputs) == pytest.approx(
        decibels(matrix, expected, inputs), abs=0.15
    )


@pytest.mark.parametrize("activation_order", [True, False])
def test_beats_round_to_nearest_by_two_decibels_on_correlated_inputs(
    activation_order: bool,
) -> None:
    inputs, matrix = correlated(256), weight(256, 64)
    plain = round_to_nearest(matrix, 32, True)
    ours = gptq(matrix, gram_of(inputs), 32, True, activation_order=activation_order)
    gained = decibels(matrix, ours.dequantize(), inputs) - decibels(
        matrix, plain.dequantize(), inputs
    )
    assert gained > 2


def test_holds_on_inputs_that_were_not_calibrated_on() -> None:
    seen, unseen = correlated(128, 4096)[:2048], correlated(128, 4096)[2048:]
    matrix = weight(128, 64)
    ours = gptq(matrix, gram_of(seen), 32, False).dequantize()
    plain = round_to_nearest(matrix, 32, False).dequantize()
    assert decibels(matrix, ours, unseen) > decibels(matrix, plain, unseen) + 2


def test_without_correlation_it_is_round_to_nearest() -> None:
    """Nothing can make up for an error of independent inputs."""
    matrix = weight(96, 16)
    ours = gptq(matrix, np.diag(np.linspace(1, 3, 96)), 32, False)
    np.testing.assert_array_equal(ours.codes, round_to_nearest(matrix, 32, False).codes)


def test_the_factor_is_that_of_the_inverse() -> None:
    gram = gram_of(correlated(70)).astype(np.float64)
    order, factor = factors(gram, 0.01, activation_order=True)
    assert (np.diff(np.diag(gram)[order]) <= 0).all()
    damped = (gram + 0.01 * np.diag(gram).mean() * np.eye(70))[np.ix_(order, order)]
    np.testing.assert_allclose(np.tril(factor, -1), 0)
    np.testing.assert_allclose(factor.T @ factor @ damped, np.eye(70), atol=1e-3)


def test_inputs_never_seen_are_rounded_to_nearest() -> None:
    inputs = correlated(64)
    inputs[:, [3, 40]] = 0
    matrix = weight(64, 8)
    rounded = gptq(matrix, gram_of(inputs), 32, True).dequantize()
    plain = round_to_nearest(matrix, 32, True).dequantize()
    np.testing.assert_array_equal(rounded[[3, 40]], plain[[3, 40]])
    blind = gptq(matrix, np.zeros((64, 64)), 32, True).dequantize()
    np.testing.assert_array_equal(blind, plain)


def test_columns_are_rounded_each_by_itself() -> None:
    gram, matrix = gram_of(correlated(64)), weight(64, 9)
    order = np.random.default_rng(0).permutation(9)
    all_at_once = gptq(matrix, gram, 16, False)
    np.testing.assert_array_equal(
        gptq(matrix[:, order], gram, 16, False).codes, all_at_once.codes[order]
    )
    np.testing.assert_array_equal(gptq(matrix[:, :1], gram, 16, False).codes, all_at_once.codes[:1])


def test_the_unit_of_the_weights_and_of_the_inputs_makes_no_difference() -> None:
    gram, matrix = gram_of(correlated(64)), weight(64, 9)
    codes = gptq(matrix, gram, 16, False).codes
    np.testing.assert_array_equal(gptq(matrix * 4, gram, 16, False).codes, codes)
    np.testing.assert_array_equal(gptq(matrix, gram * 1024, 16, False).codes, codes)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_inputs_that_are_not_finite_are_refused(broken: float) -> None:
    gram = gram_of(correlated(32))
    gram[2, 2] = broken
    with pytest.raises(ValueError, match="infs or NaNs"):
        gptq(weight(32, 4), gram, 16, True)
