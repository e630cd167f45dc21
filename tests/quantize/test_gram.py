from __future__ import annotations

import numpy as np
import pytest

from compile.errors import Incorrect
from quantize.gram import InputStatistics, input_statistics, parts


def test_statistics_are_those_of_all_inputs_together(graphs, examples) -> None:
    """Inputs of unlike lengths, one example at a time, against float64 over all of them."""
    source, data = graphs.put(graphs.ffn()), examples(graphs.FFN)
    widths = {"x": 96, "active": 128}
    (found,) = input_statistics(source.folder, widths, lambda: data.calibration(24))
    inputs = np.concatenate([f["x"].reshape(-1, 96) for f in data.calibration(24)]).astype(float)
    assert found["x"].count == len(inputs)
    np.testing.assert_allclose(found["x"].gram, inputs.T @ inputs / len(inputs), atol=1e-5)
    np.testing.assert_allclose(found["x"].magnitudes, np.abs(inputs).mean(0), rtol=1e-5)
    assert found["active"].gram.shape == (128, 128)


def test_parts_hold_no_more_than_fits_and_give_the_same(graphs, examples) -> None:
    source, data = graphs.put(graphs.ffn()), examples(graphs.FFN)
    widths = {"x": 96, "active": 128}
    asked = []

    def calibration():
        asked.append(1)
        return data.calibration(4)

    together = next(input_statistics(source.folder, widths, calibration))
    apart = list(input_statistics(source.folder, widths, calibration, held_bytes=70_000))
    assert [list(part) for part in apart] == [["x"], ["active"]]
    assert len(asked) == 3
    for part in apart:
        for name, statistics in part.items():
            np.testing.assert_array_equal(statistics.gram, together[name].gram)


def test_what_does_not_fit_stands_alone() -> None:
    assert parts({"a": 10, "b": 100, "c": 10, "d": 10}, 1000) == [["a"], ["b"], ["c", "d"]]
    assert parts({}, 1000) == []


def test_means_hold_however_many_inputs_come() -> None:
    statistics = InputStatistics.of_width(3)
    row = np.array([[0.1, 0.2, 0.3]], np.float32)
    for _ in range(20_000):
        statistics.add(row)
    np.testing.assert_allclose(statistics.gram, row.T @ row, rtol=1e-5)
    assert statistics.count == 20_000


def test_values_that_are_not_finite_are_refused_by_name(graphs) -> None:
    source = graphs.put(graphs.ffn())
    broken = [{"x": np.full((1, 2, 96), np.inf, np.float32)}]
    with pytest.raises(Incorrect, match="activation 'x' is not finite"):
        list(input_statistics(source.folder, {"x": 96}, lambda: broken))
