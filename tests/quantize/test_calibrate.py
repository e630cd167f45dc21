from __future__ import annotations

import tracemalloc

import numpy as np
import onnx
import pytest
from onnxruntime.quantization.calibrate import HistogramCollector

from compile.errors import Incorrect
from quantize.calibrate import BINS, Histogram, Range, activation_ranges
from quantize.passes import Int8


def filled(*parts: np.ndarray) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.add(part)
    return histogram


def normal(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


@pytest.mark.parametrize(
    ("span", "scale", "zero"),
    [
        (Range(-1.0, 1.55), 0.01, 100),
        (Range(0.5, 2.55), 0.01, 0),
        (Range(-2.55, -0.5), 0.01, 255),
        (Range(0.0, 0.0), 1.0, 0),
    ],
)
def test_u8_spans_the_range_with_zero_exact(span: Range, scale: float, zero: int) -> None:
    got = span.grid()
    assert got[0] == pytest.approx(scale, rel=1e-6)
    assert got[1] == zero
    assert got[0].dtype == np.float32
    assert got[1].dtype == np.uint8


@pytest.mark.parametrize(
    ("span", "scale"), [(Range(-1.27, 0.5), 0.01), (Range(0.3, 2.54), 0.02), (Range(0, 0), 1.0)]
)
def test_s8_spans_both_sides_of_a_zero_whose_code_is_0(span: Range, scale: float) -> None:
    got = span.grid("s8")
    assert got[0] == pytest.approx(scale, rel=1e-6)
    assert (got[0].dtype, got[1].dtype, got[1]) == (np.float32, np.int8, 0)
    assert span.rounded(np.array([-span.high, 0.0, span.high]), "s8") == pytest.approx(
        [-span.high, 0, span.high], abs=scale / 2
    )


def test_histogram_keeps_every_count_when_its_limit_doubles() -> None:
    small, large = normal(1000), 9 * normal(1000, 1)
    grown, once = filled(small, large), filled(np.concatenate([small, large]))
    assert grown.counts.sum() == once.counts.sum() == 2000
    assert grown.counts.size == BINS
    # The same values, counted in bins at most four times as wide.
    edges = np.linspace(-grown.limit, grown.limit, BINS + 1)
    joined = np.histogram(np.concatenate([small, large]), edges)[0]
    assert np.abs(np.cumsum(grown.counts) - np.cumsum(joined)).max() <= 2


def test_histogram_takes_zeros_alone_and_before_others() -> None:
    nothing = filled(np.zeros(10, np.float32))
    assert nothing.percentile(99) == Range(0.0, 0.0)
    assert nothing.entropy() == Range(0.0, 0.0)
    assert filled(np.zeros(10, np.float32), normal(10)).counts.sum() == 20


@pytest.mark.parametrize("share", [90.0, 99.0, 99.9])
def test_percentile_is_that_of_all_values(share: float) -> None:
    parts = [normal(5000, seed) * (1 + seed) for seed in range(4)]
    got = filled(*parts).percentile(share)
    tail = (100 - share) / 2
    want = np.percentile(np.concatenate(parts), [tail, 100 - tail])
    width = 2 * 16 / BINS
    assert [got.low, got.high] == pytest.approx(list(want), abs=0.15 + width)


def test_percentile_agrees_with_onnx_runtimes_on_values_of_one_length() -> None:
    values = normal(20_000)
    theirs = HistogramCollector("percentile", False, BINS, 128, 99.0, "same")
    theirs.collect({"x": [values]})
    low, high = theirs.compute_collection_result()["x"][:2]
    got = filled(values).percentile(99.0)
    assert [got.low, got.high] == pytest.approx([float(low), float(high)], abs=0.01)


def test_percentile_never_leaves_the_values_seen() -> None:
    positive = np.abs(normal(1000)) + 3
    got = filled(positive).percentile(99.99)
    assert got.low >= positive.min()
    assert got.high <= positive.max()


def test_entropy_cuts_off_a_lonely_outlier_and_keeps_an_even_range() -> None:
    values = normal(200_000)
    far = filled(np.append(values, np.float32(40))).entropy()
    assert 2.5 < far.high < 10
    even = np.random.default_rng(0).uniform(-1, 1, 200_000).astype(np.float32)
    assert filled(even).entropy().high > 0.95


@pytest.mark.parametrize("calibration", ["minmax", "percentile", "entropy", "mse"])
def test_ranges_come_from_examples_of_unlike_lengths(calibration: str, graphs, examples) -> None:
    """ONNX Runtime's collectors stack the examples, and fail here."""
    asked = Int8(mode="static", calibration=calibration)
    data = examples(graphs.FFN)
    lengths = {feeds["x"].shape for feeds in data.calibration(8)}
    assert len(lengths) > 1
    folder = graphs.put(graphs.ffn()).folder
    found = activation_ranges(folder, ["x", "active"], data.calibration(8), asked)
    values = np.concatenate([feeds["x"].ravel() for feeds in data.calibration(8)])
    assert values.min() <= found["x"].low < -2
    assert 2 < found["x"].high <= values.max()
    # GELU is never below -0.17.
    assert -0.18 < found["active"].low < 0


def test_minmax_is_exact(graphs, examples) -> None:
    asked, data = Int8(mode="static"), examples(graphs.FFN)
    found = activation_ranges(graphs.put(graphs.ffn()).folder, ["x"], data.calibration(6), asked)[
        "x"
    ]
    values = np.concatenate([feeds["x"].ravel() for feeds in data.calibration(6)])
    assert (found.low, found.high) == (float(values.min()), float(values.max()))


def test_activation_that_is_not_finite_is_refused_by_name(graphs) -> None:
    feeds = {"x": np.full((1, 2, 96), np.inf, np.float32)}
    with pytest.raises(Incorrect, match="activation 'x' is not finite"):
        activation_ranges(graphs.put(graphs.ffn()).folder, ["x"], [feeds], Int8(mode="static"))


@pytest.mark.parametrize("calibration", ["minmax", "percentile", "entropy", "mse"])
def test_memory_does_not_grow_with_the_examples(calibration: str, graphs, examples) -> None:
    asked = Int8(mode="static", calibration=calibration)
    folder, data = graphs.put(graphs.ffn()).folder, examples(graphs.FFN)

    def peak(count: int) -> int:
        tracemalloc.start()
        activation_ranges(folder, ["x", "active"], data.calibration(count), asked)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(4)
    assert peak(200) < peak(8) + 200_000


def test_graph_outputs_can_be_watched_too(graphs) -> None:
    model = graphs.ffn()
    model.graph.output.append(onnx.helper.make_tensor_value_info("active", 1, None))
    feeds = graphs.FFN.feeds({"batch": 1, "sequence": 3})
    found = activation_ranges(graphs.put(model).folder, ["active"], [feeds], Int8(mode="static"))
    assert found["active"].high > 0


@pytest.mark.parametrize("activations", ["u8", "s8"])
@pytest.mark.parametrize("kind", ["normal", "outliers", "one-sided", "uniform"])
def test_mse_finds_the_range_that_loses_least_on_the_values_themselves(
    kind: str, activations: str
) -> None:
    """Against every pair of ends on a finer grid, tried on all values in float64."""
    values = normal(20_000)
    if kind == "outliers":
        values[::2000] *= 12
    elif kind == "one-sided":
        values = np.maximum(values, 0) ** 2
    elif kind == "uniform":
        values = np.random.default_rng(1).uniform(-1, 2, 20_000).astype(np.float32)

    def lost(span: Range) -> float:
        scale, zero = (float(number) for number in span.grid(activations))
        least, most = (0, 255) if activations == "u8" else (-128, 127)
        codes = np.clip(np.rint(values / scale) + zero, least, most)
        return float(np.square((codes - zero) * scale - values.astype(np.float64)).mean())

    found = filled(values).mse(activations)
    shares = np.linspace(0.2, 1, 49)
    every = [
        lost(Range(low * float(values.min()), high * float(values.max())))
        for low in (shares if values.min() < 0 else [1.0])
        for high in shares
    ]
    assert lost(found) <= 1.02 * min(every)
    assert lost(found) <= lost(Range(float(values.min()), float(values.max()))) * 1.001
    if kind == "uniform":  # nothing to be gained by cutting
        assert found.high > 0.97 * values.max()
    if kind == "outliers":  # of which each is far off by little, and all others by less
        reach = float(np.abs(values).max())
        whole = values.max() - values.min() if activations == "u8" else 2 * reach
        assert found.high - found.low < 0.97 * whole


def test_mse_of_zeros_is_their_range() -> None:
    assert filled(np.zeros(10, np.float32)).mse() == Range(0.0, 0.0)
