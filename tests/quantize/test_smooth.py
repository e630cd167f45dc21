from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from compile.artifact import Store
from compile.errors import InputError
from compile.graph import MODEL, array, load_onnx
from quantize.audit import decibels, signal_and_noise
from quantize.build import build
from quantize.gram import InputStatistics
from quantize.recipe import recipe_from_table
from quantize.rounding.channels import channel_codes
from quantize.smooth import int8_error, scales_of, search_smoothing

SMOOTH = {"pass": "smooth", "examples": 32}
STATIC = {"pass": "int8", "mode": "static", "examples": 32}


def recipe(*passes: dict):
    return recipe_from_table("r", {"passes": list(passes)}, "test")


class Loud:
    """Inputs of which three channels carry ``gain`` times as much as the others."""

    fingerprint = "loud"

    def __init__(self, signature, gain: float) -> None:
        self.signature = signature
        self.gains = np.ones(96, np.float32)
        self.gains[[3, 40, 77]] = gain

    def calibration_examples(self, most: int) -> int:
        return most

    def calibration(self, examples: int) -> Iterator[dict]:
        for seed in range(examples):
            feeds = self.signature.feeds({"batch": 1, "sequence": 4 + seed % 3}, seed)
            yield {"x": feeds["x"] * self.gains}


def seen_of(inputs: np.ndarray) -> InputStatistics:
    seen = InputStatistics.of_width(inputs.shape[1])
    seen.add(inputs.astype(np.float32))
    return seen


def problem(gain: float, width: int = 64) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    inputs = random.standard_normal((4096, width)) * np.where(np.arange(width) < 3, gain, 1)
    return inputs.astype(np.float32), random.standard_normal((width, 32)).astype(np.float32)


def quantized(
    inputs: np.ndarray, weight: np.ndarray, scales: np.ndarray, activations: str = "u8"
) -> np.ndarray:
    """The product in INT8 as the static kernels compute it, in float64."""
    smoothed = inputs.astype(np.float64) / scales
    low, high = min(smoothed.min(), 0), max(smoothed.max(), 0)
    step, zero = (high - low) / 255, round(-low / ((high - low) / 255))
    if activations == "s8":
        step, zero = np.abs(smoothed).max() / 127, 0
    codes = np.rint(smoothed / step) + zero
    weights, steps = channel_codes(weight * scales[:, None], 8)
    return ((codes - zero) * step) @ (weights.astype(np.float64) * steps)


@pytest.mark.parametrize("activations", ["u8", "s8"])
@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("gain", [1, 30])
def test_error_is_that_of_the_integer_product(gain: float, alpha: float, activations: str) -> None:
    """Foretold from the Gram matrix and the ranges, against all inputs multiplied in integers."""
    inputs, weight = problem(gain)
    if activations == "s8":  # of no symmetric range, which wastes codes
        inputs[:, 7] += 3
    seen = seen_of(inputs)
    exact = inputs.astype(np.float64) @ weight
    for scales in (np.ones(64, np.float32), scales_of([weight], seen, alpha)):
        error = quantized(inputs, weight, scales, activations) - exact
        found = np.square(error).sum() / np.square(exact).sum()
        foretold = int8_error([weight], seen, scales, activations)
        assert foretold == pytest.approx(found, rel=0.1)


def test_outlier_channels_are_smoothed_and_that_gains_decibels() -> None:
    inputs, weight = problem(30)
    found = search_smoothing([weight], seen_of(inputs))
    assert found.alpha is not None
    assert 10 * np.log10(found.error_before / found.error) > 6
    exact = inputs.astype(np.float64) @ weight
    lost = [
        np.square(quantized(inputs, weight, scales) - exact).sum()
        for scales in (found.scales, np.ones(64, np.float32))
    ]
    assert 10 * np.log10(lost[1] / lost[0]) > 6


def test_scales_balance_the_maxima_at_one_half() -> None:
    """At alpha = 1/2 an input and the weights that read it end with the same largest value, up to
    one factor for all."""
    inputs, weight = problem(30)
    seen = seen_of(inputs)
    scales = scales_of([weight], seen, 0.5).astype(np.float64)
    reach = np.abs(inputs).max(0) / scales
    rows = np.abs(weight).max(1) * scales
    np.testing.assert_allclose(reach / rows, reach[0] / rows[0], rtol=1e-5)
    assert np.log(scales).mean() == pytest.approx(0, abs=1e-6)


def test_an_input_never_seen_or_never_read_is_left_alone() -> None:
    inputs, weight = problem(30)
    inputs[:, 5], weight[9] = 0, 0
    scales = scales_of([weight], seen_of(inputs), 0.5)
    assert (scales[5], scales[9]) == (1, 1)
    assert np.isfinite(int8_error([weight], seen_of(inputs), scales))


@pytest.mark.parametrize("activations", ["u8", "s8"])
@pytest.mark.parametrize("calibration", ["minmax", "mse"])
@pytest.mark.parametrize(("gain", "gained"), [(30, 5), (1, -0.1)])
def test_int8_is_better_with_outliers_and_no_worse_without(
    gain: float, gained: float, calibration: str, activations: str, graphs, store: Store
) -> None:
    source, data = graphs.put(graphs.ffn()), Loud(graphs.FFN, gain)
    want = [graphs.run(source.folder / MODEL, f) for f in data.calibration(32)]

    def ratio(*passes: dict) -> float:
        built = build(recipe(*passes), source, "onnx", store, data, lambda _: None)
        assert built.facts["quantized_kernels"]["MatMulIntegerToFloat"] == 2
        got = [graphs.run(built.folder / MODEL, f) for f in data.calibration(32)]
        flat = (np.concatenate([each.reshape(-1) for each in side]) for side in (want, got))
        return decibels(*signal_and_noise(*flat))

    codes = {"activations": activations}
    static = {**STATIC, **codes, "calibration": calibration}
    assert ratio({**SMOOTH, **codes}, static) - ratio(static) > gained


def test_int8_behind_it_calibrates_on_the_smoothed_graph(graphs, store: Store) -> None:
    """Its ranges are those of x / s, not of x."""
    source, data = graphs.put(graphs.ffn()), Loud(graphs.FFN, 30)
    built = build(recipe(SMOOTH, STATIC), source, "onnx", store, data, lambda _: None)
    found = {t.name: array(t) for t in load_onnx(built.folder).graph.initializer}
    smoothed = np.concatenate(
        [(f["x"] * found["x__scaled__factors"]).ravel() for f in data.calibration(32)]
    )
    span = smoothed.max() - smoothed.min()
    assert found["x__scaled__scale"] == pytest.approx(span / 255, rel=1e-5)
    loudest = max(np.abs(f["x"]).max() for f in data.calibration(32))
    assert span < loudest / 3


@pytest.mark.parametrize("calibration", ["entropy", "percentile"])
def test_ranges_that_cut_off_are_refused_behind_it(calibration: str) -> None:
    """Entropy alone keeps 38 dB of plain inputs to the test above, and 32 dB smoothed ones."""
    with pytest.raises(InputError, match=f'needs calibration = .*"mse", not "{calibration}"'):
        recipe(SMOOTH, {**STATIC, "calibration": calibration})


def test_it_has_to_agree_with_int8_about_the_codes() -> None:
    with pytest.raises(InputError, match="have to agree about activations"):
        recipe(SMOOTH, {**STATIC, "activations": "s8"})


@pytest.mark.parametrize("behind", [[], [{"pass": "int8"}], [{"pass": "int4"}]])
def test_it_stands_before_static_int8_only(behind: list) -> None:
    with pytest.raises(InputError, match='"static" has to come behind it'):
        recipe(SMOOTH, *behind)
