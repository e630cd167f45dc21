"""Masks and updates of one layer against float64 references written from the papers' formulas."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantize.audit import PassFailed
from quantize.pruning.magnitude import global_magnitude_kept, magnitude_kept
from quantize.pruning.masks import keep_by_group, keep_by_row, keep_overall
from quantize.pruning.pattern import Pattern, parse_pattern
from quantize.pruning.proof import (
    check_weights,
    check_zeros,
    reconstruction_error,
    zero_share,
)
from quantize.pruning.sparsegpt import sparsegpt
from quantize.pruning.wanda import wanda_kept

TWO_OF_FOUR = Pattern(2, 4)


def layer(out: int = 24, width: int = 64, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A weight and inputs (tokens, width) that are correlated, a few of them outliers in scale."""
    random = np.random.default_rng(seed)
    mixing = random.standard_normal((width // 4, width))
    inputs = random.standard_normal((1024, width // 4)) @ mixing
    inputs += 0.3 * random.standard_normal(inputs.shape)
    inputs[:, random.choice(width, 4, replace=False)] *= 20
    weight = random.standard_normal((out, width)) / np.sqrt(width)
    return weight.astype(np.float32), inputs.astype(np.float32)


def gram_of(inputs: np.ndarray) -> np.ndarray:
    wide = inputs.astype(np.float64)
    return (wide.T @ wide / len(wide)).astype(np.float32)


def pruned_by(
    method: str, weight: np.ndarray, gram: np.ndarray, pattern: Pattern | None = None
) -> np.ndarray:
    if method == "sparsegpt":
        return sparsegpt(weight, gram, 0.5, pattern)[0]
    if method == "wanda":
        return weight * wanda_kept(weight, np.diag(gram), 0.5, pattern)
    return weight * magnitude_kept(weight, 0.5, pattern)


METHODS = ("magnitude", "wanda", "sparsegpt")


def test_pattern_is_read_and_anything_else_refused() -> None:
    assert parse_pattern("unstructured") is None
    assert parse_pattern("4:8") == Pattern(4, 8)
    assert parse_pattern("1:4").sparsity == 0.75
    for wrong in ("4:4", "5:4", "0:4", "2:4:8", "2/4", "", "-1:2", "2:4 ", "２:4"):
        with pytest.raises(ValueError, match="n weights kept of each m"):
            parse_pattern(wrong)


def test_magnitudes_by_hand() -> None:
    weights = {
        "a": np.array([[1.0, -2.0], [3.0, -4.0]]),
        "b": np.array([[-10.0, 0.5], [30.0, 40.0]]),
    }
    whole = global_magnitude_kept(weights, 0.5)
    assert whole["a"].tolist() == [[False, False], [False, True]]
    assert whole["b"].tolist() == [[True, False], [True, True]]
    assert magnitude_kept(weights["b"], 0.5, None).tolist() == [[False, False], [True, True]]
    assert magnitude_kept(weights["b"], 0, Pattern(1, 2)).tolist() == [[True, False], [False, True]]


def test_wanda_scores_by_hand() -> None:
    weight = np.array([[1.0, 2.0, 3.0, 4.0], [4.0, -3.0, 2.0, 1.0]])
    norms = np.array([10.0, 1.0, 1.0, 2.0])
    # |W| * norm is [10, 2, 3, 8] and [40, 3, 2, 2]: of equal scores the first goes.
    kept = wanda_kept(weight, norms**2, 0.5, None)
    assert kept.tolist() == [[True, False, False, True], [True, True, False, False]]
    kept = wanda_kept(weight, norms**2, 0, Pattern(1, 2))
    assert kept.tolist() == [[True, False, False, True], [True, False, False, True]]


@pytest.mark.parametrize("method", METHODS)
def test_equal_scores_do_not_fall_together(method: str) -> None:
    weight, gram = np.ones((4, 64), np.float32), np.eye(64, dtype=np.float32)
    assert (pruned_by(method, weight, gram) == 0).mean() == 0.5


def exact_obs(
    weight: np.ndarray, hessian: np.ndarray, sparsity: float, pattern: Pattern | None
) -> np.ndarray:
    """Sequential Optimal Brain Surgeon by brute force: before each input, the inverse of what is
    left of the Hessian, anew."""
    result = weight.astype(np.float64)
    out, width = result.shape
    kept = np.ones((out, width), bool)

    def cost(inputs: range) -> np.ndarray:
        inverse = [np.linalg.inv(hessian[j:, j:])[0, 0] for j in inputs]
        return result[:, inputs] ** 2 / np.array(inverse)

    if pattern is None:
        costs = cost(range(width))
        order = np.argsort(costs, axis=None)[: round(sparsity * costs.size)]
        kept.flat[order] = False
    for j in range(width):
        if pattern and j % pattern.m == 0:
            costs = cost(range(j, j + pattern.m))
            order = np.argsort(costs, axis=1)[:, : pattern.m - pattern.n]
            np.put_along_axis(kept[:, j : j + pattern.m], order, False, axis=1)
        inverse = np.linalg.inv(hessian[j:, j:])
        for row in range(out):
            if not kept[row, j]:
                result[row, j:] -= result[row, j] / inverse[0, 0] * inverse[0]
                result[row, j] = 0
    return result


@pytest.mark.parametrize("pattern", [None, TWO_OF_FOUR, Pattern(1, 4), Pattern(4, 8)])
def test_sparsegpt_is_exact_sequential_surgery(pattern: Pattern | None) -> None:
    weight, inputs = layer(out=6, width=32)
    gram = gram_of(inputs)
    damped = gram.astype(np.float64) + 0.01 * np.trace(gram) / 32 * np.eye(32)
    want = exact_obs(weight, damped, 0.5, pattern)
    # In one block of all inputs, and in blocks: the changes reach all the same inputs.
    got, kept = sparsegpt(weight, gram, 0.5, pattern, block=32)
    np.testing.assert_allclose(got, want, atol=1e-4)
    assert np.array_equal(kept, want != 0)
    if pattern:
        np.testing.assert_allclose(sparsegpt(weight, gram, 0, pattern, block=8)[0], want, atol=1e-4)


def test_sparsegpt_chooses_the_share_in_each_block() -> None:
    weight, inputs = layer(out=8, width=300)
    got, kept = sparsegpt(weight, gram_of(inputs), 0.25, None)
    for start in (0, 128, 256):
        assert (got[:, start : start + 128] == 0).mean() == pytest.approx(0.25, abs=1 / 300)
    assert np.array_equal(got == 0, ~kept)


@pytest.mark.parametrize("pattern", [None, TWO_OF_FOUR])
def test_who_knows_more_of_the_inputs_keeps_more_of_the_outputs(pattern: Pattern | None) -> None:
    for seed in range(3):
        weight, inputs = layer(seed=seed)
        gram = gram_of(inputs)
        errors = {}
        for method in METHODS:
            pruned = pruned_by(method, weight, gram, pattern)
            difference = inputs.astype(float) @ (weight - pruned).T
            errors[method] = np.linalg.norm(difference) / np.linalg.norm(inputs @ weight.T)
            # The figure that the pass reports is that of the outputs themselves.
            told = reconstruction_error(weight, pruned, gram)
            assert told == pytest.approx(errors[method], rel=1e-3)
        assert errors["sparsegpt"] < 0.9 * errors["wanda"]
        assert errors["wanda"] < 0.9 * errors["magnitude"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("pattern", [TWO_OF_FOUR, Pattern(4, 8), Pattern(1, 3), Pattern(15, 16)])
def test_each_group_has_its_zeros_and_no_more(method: str, pattern: Pattern) -> None:
    weight, inputs = layer(out=7, width=48)
    pruned = pruned_by(method, weight, gram_of(inputs), pattern)
    zeros = (pruned.reshape(-1, pattern.m) == 0).sum(1)
    assert (zeros == pattern.m - pattern.n).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("pattern", [None, TWO_OF_FOUR])
def test_permuted_rows_are_pruned_alike(method: str, pattern: Pattern | None) -> None:
    weight, inputs = layer()
    order = np.random.default_rng(1).permutation(len(weight))
    gram = gram_of(inputs)
    straight = pruned_by(method, weight, gram, pattern)
    np.testing.assert_array_equal(pruned_by(method, weight[order], gram, pattern), straight[order])


@settings(max_examples=25, deadline=None)
@given(of_weights=st.integers(-6, 6), of_inputs=st.integers(-6, 6), method=st.sampled_from(METHODS))
def test_scales_change_no_choice(of_weights: int, of_inputs: int, method: str) -> None:
    """Of all weights, and of all inputs; by powers of two, which are exact."""
    weight, inputs = layer(out=5, width=16)
    inputs[:, 3] = 0
    gram, up = gram_of(inputs), np.float32(2.0**of_weights)
    want = pruned_by(method, weight, gram)
    got = pruned_by(method, weight * up, gram * np.float32(4.0**of_inputs))
    np.testing.assert_allclose(got, want * up, rtol=1e-5)


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
@pytest.mark.parametrize("pattern", [None, TWO_OF_FOUR])
def test_inputs_that_were_zero_go_first_and_change_nothing(
    method: str, pattern: Pattern | None
) -> None:
    weight, inputs = layer(width=64)
    silent = [4, 5, 20, 41]
    weight[:, silent] *= 1000
    inputs[:, silent] = 0
    pruned = pruned_by(method, weight, gram_of(inputs), pattern)
    assert np.isfinite(pruned).all()
    assert (pruned[:, silent] == 0).all()
    assert (pruned == 0).mean() == 0.5
    # Had they not been there, the others had come out as they have, but for the share that is left.
    if pattern is None and method == "sparsegpt":
        rest = np.setdiff1d(np.arange(64), silent)
        share = (0.5 * 64 - len(silent)) / len(rest)
        alone, _ = sparsegpt(weight[:, rest], gram_of(inputs)[np.ix_(rest, rest)], share, None)
        np.testing.assert_allclose(pruned[:, rest], alone, atol=1e-5)


def test_of_inputs_that_were_all_zero_the_smallest_weights_go() -> None:
    weight = np.array([[3.0, -1.0, 2.0, 4.0]], np.float32)
    nothing = np.zeros((4, 4), np.float32)
    for method in ("wanda", "sparsegpt"):
        assert pruned_by(method, weight, nothing).tolist() == [[3, 0, 0, 4]]
    assert reconstruction_error(weight, 0 * weight, nothing) == 0


@pytest.mark.parametrize("method", METHODS)
def test_zero_and_one_row_weights(method: str) -> None:
    weight, inputs = layer(out=1)
    gram = gram_of(inputs)
    assert (pruned_by(method, weight, gram) == 0).sum() == 32
    assert not pruned_by(method, 0 * weight, gram).any()


def test_shares_are_exact_to_a_weight() -> None:
    scores = np.random.default_rng(0).standard_normal((7, 9))
    for share in (0.01, 0.3, 0.5, 0.99):
        assert (~keep_overall(scores, share)).sum() == round(share * 63)
        assert ((~keep_by_row(scores, share)).sum(1) == round(share * 9)).all()
    with pytest.raises(ValueError, match="rows of 9 inputs are not whole groups of 4"):
        keep_by_group(scores, TWO_OF_FOUR)


def test_proof_counts_the_zeros_of_every_group() -> None:
    good = np.array([[0, 1, 0, 2.0], [0, 0, 0, 1]])
    facts = check_zeros("prune", {"a": good}, 0.5, TWO_OF_FOUR, before=0.125)
    assert facts["groups_proven"] == 2
    assert facts["sparsity"] == 0.625
    assert facts["sparsity_by_layer"] == {"a": 0.625}
    assert facts["kernels"].startswith("storage only: zeros are multiplied like other numbers")
    # Half are zero all the same, but not where they should be.
    bad = np.array([[0, 1, 3, 2.0], [0, 0, 0, 1]])
    with pytest.raises(PassFailed, match=r"pattern of 'a': expected 2 zeros .* found 1 groups"):
        check_zeros("prune", {"a": bad}, 0.5, TWO_OF_FOUR, before=0)
    for zeros in (0.4, 0.6):
        weight = np.ones(100)
        weight[: round(zeros * 100)] = 0
        with pytest.raises(PassFailed, match=f"expected 0.5 within 0.01, found {zeros}"):
            check_zeros("prune", {"a": weight.reshape(10, 10)}, 0.5, None, before=0)


def test_zeros_are_exact_ones() -> None:
    assert zero_share({"a": np.array([0.0, 1e-30]), "b": np.array([0.0, -0.0])}) == 0.75


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(bad: float) -> None:
    weight = np.ones((2, 4))
    weight[1, 2] = bad
    with pytest.raises(PassFailed, match=r"weights of 'b': expected finite ones, found 1 that"):
        check_weights("prune", {"a": np.ones((2, 4)), "b": weight}, None)
    with pytest.raises(PassFailed, match=r"inputs of 'c': expected a multiple of 4 .* found 6"):
        check_weights("prune", {"c": np.ones((2, 6))}, TWO_OF_FOUR)
