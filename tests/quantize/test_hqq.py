from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantize.rounding.blocks import cut_into_blocks
from quantize.rounding.hqq import NORM, _shrunk, hqq
from quantize.rounding.rtn import round_to_nearest


def heavy(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """One weight in two hundred is ten times as large as the others."""
    random = np.random.default_rng(seed)
    outlier = random.random((rows, columns)) < 0.005
    drawn = random.standard_normal((rows, columns)) * np.where(outlier, 10, 1)
    return drawn.astype(np.float32)


def squares_by_block(matrix: np.ndarray, rounded: np.ndarray, block: int) -> np.ndarray:
    return np.square(cut_into_blocks(rounded - matrix, block).astype(np.float64)).sum(-1)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("block", [32, 128])
def test_beats_round_to_nearest_on_weights_with_outliers(symmetric: bool, block: int) -> None:
    matrix = heavy(512, 128)
    ours, plain = (f(matrix, block, symmetric).dequantize() for f in (hqq, round_to_nearest))
    lost, lost_plain = (np.square(r - matrix).sum() for r in (ours, plain))
    assert lost < 0.98 * lost_plain
    # What it is for: most of the weights, whatever becomes of the few.
    assert np.median(np.abs(ours - matrix)) < 0.97 * np.median(np.abs(plain - matrix))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [3, 4])
def test_the_weights_do_not_shrink(symmetric: bool, bits: int) -> None:
    """Least squares alone took 3 % of every layer's outputs at 3 bits."""
    matrix = np.random.default_rng(0).standard_normal((512, 64)).astype(np.float32)
    rounded = hqq(matrix, 128, symmetric, bits).dequantize()
    assert np.vdot(rounded, matrix) / np.vdot(matrix, matrix) == pytest.approx(1, abs=0.006)
    plain = round_to_nearest(matrix, 128, symmetric, bits).dequantize()
    assert np.square(rounded - matrix).sum() < 0.95 * np.square(plain - matrix).sum()


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 70),
    symmetric=st.booleans(),
    bits=st.sampled_from([2, 3, 4, 8]),
    seed=st.integers(0, 1000),
    scale=st.floats(1e-6, 1e6),
)
def test_no_block_is_worse_than_rounded_to_nearest(
    rows: int, symmetric: bool, bits: int, seed: int, scale: float
) -> None:
    matrix = heavy(rows, 3, seed) * np.float32(scale)
    ours, plain = (f(matrix, 16, symmetric, bits).dequantize() for f in (hqq, round_to_nearest))
    assert (
        squares_by_block(matrix, ours, 16) <= squares_by_block(matrix, plain, 16) * 1.0001
    ).all()


def test_threshold_is_the_minimiser_of_the_paper() -> None:
    """The generalised soft threshold lowers |e|^p / p + beta / 2 (e - x)^2 against leaving e = x,
    and is 0 where x is small."""
    beta = 10.0
    x = np.linspace(-3, 3, 121, dtype=np.float32)
    e = _shrunk(x, beta).astype(np.float64)
    assert (np.abs(e) <= np.abs(x)).all()
    assert (e[np.abs(x) < 0.2] == 0).all()
    np.testing.assert_allclose(e[-1], 3 - 3 ** (NORM - 1) / beta, rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, 2.5])
def test_a_constant_weight_is_exact(value: float) -> None:
    matrix = np.full((40, 3), value, np.float32)
    for symmetric in (True, False):
        np.testing.assert_allclose(hqq(matrix, 16, symmetric).dequantize(), matrix, rtol=1e-6)


def test_columns_are_rounded_each_by_itself() -> None:
    matrix, order = heavy(64, 7), np.random.default_rng(0).permutation(7)
    np.testing.assert_array_equal(
        hqq(matrix[:, order], 32, False).codes, hqq(matrix, 32, False).codes[order]
    )
