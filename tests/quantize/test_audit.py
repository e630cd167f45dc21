from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from compile.graph import save_onnx
from quantize.audit import (
    CHUNK,
    OnnxRun,
    PassFailed,
    check_faithful,
    check_kernels,
    check_smaller,
    decibels,
    signal_and_noise,
)
from quantize.int8 import quantize_int8
from quantize.linear import linear_layers

VALUES = np.arange(1, 7, dtype=np.float32).reshape(2, 3)


def constant(values: np.ndarray):
    return lambda feeds: {"y": values}


def test_ratio_is_the_textbook_one() -> None:
    signal, noise = signal_and_noise(np.array([3.0, 4.0]), np.array([3.0, 4.5]))
    assert (signal, noise) == (25.0, 0.25)
    assert decibels(signal, noise) == pytest.approx(20.0)
    assert decibels(1.0, 0.0) == math.inf
    assert decibels(0.0, 1.0) == -math.inf


def test_ratio_is_in_float64_over_chunks() -> None:
    reference = np.ones(2 * CHUNK + 3, np.float32)
    signal, noise = signal_and_noise(reference, reference + np.float32(2**-12))
    assert signal == 2 * CHUNK + 3
    assert noise == pytest.approx((2 * CHUNK + 3) * 2**-24, rel=1e-12)


def test_ratio_recorded_is_that_of_the_worst_output() -> None:
    before = {"good": VALUES, "bad": VALUES}
    after = {"good": VALUES * 1.001, "bad": VALUES * 1.1}
    facts = check_faithful("p", lambda _: before, lambda _: after, [{}], 10)
    assert facts["snr_db"] == pytest.approx(20.0, abs=0.01)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_output_that_is_not_finite_fails_even_without_a_floor(bad: float) -> None:
    broken = VALUES.copy()
    broken[0, 1] = bad
    with pytest.raises(PassFailed, match="pass p: values of 'y': expected finite ones, found 1"):
        check_faithful("p", constant(VALUES), constant(broken), [{}], -math.inf)


def test_output_below_the_floor_fails_with_both_numbers() -> None:
    with pytest.raises(PassFailed, match=r"at least 30 dB, found 20\.0 dB"):
        check_faithful("p", constant(VALUES), constant(VALUES * 1.1), [{}], 30)


def test_unchanged_outputs_fail() -> None:
    with pytest.raises(PassFailed, match=r"effect.*the same to the last bit"):
        check_faithful("p", constant(VALUES), constant(VALUES.copy()), [{}], 0)


def test_other_shape_fails() -> None:
    with pytest.raises(PassFailed, match=r"shape of 'y': expected \(2, 3\), found \(3, 2\)"):
        check_faithful("p", constant(VALUES), constant(VALUES.T), [{}], 0)


def test_weights_that_did_not_shrink_fail() -> None:
    assert check_smaller("p", (100, 25), (200, 130), 0.27) == {
        "weights_bytes_before": 100,
        "weights_bytes": 25,
        "weights_ratio": 0.25,
        "file_ratio": 0.65,
    }
    with pytest.raises(PassFailed, match=r"at most 0\.27 of the 100 before, found 0\.5 of them"):
        check_smaller("p", (100, 50), (200, 150), 0.27)
    with pytest.raises(PassFailed, match="bytes of files: expected fewer than 200, found 200"):
        check_smaller("p", (100, 25), (200, 200), 0.27)


def test_kernels_that_ran_are_counted_by_the_profile(graphs, tmp_path: Path) -> None:
    model = graphs.ffn()
    quantize_int8(model, linear_layers(model, ["down"]), [], None, 8)
    run = OnnxRun("p", save_onnx(model, tmp_path), profile=True)
    for seed in range(3):
        run(graphs.FFN.feeds({"batch": 1, "sequence": 4 + seed}, seed))
    kernels = run.kernels()
    assert kernels["DynamicQuantizeMatMul"] == ["up"]
    assert kernels["MatMul"] == ["down"]
    facts = check_kernels("p", kernels, ["up"])
    assert facts == {
        "quantized_kernels": {"DynamicQuantizeMatMul": 1},
        "float_products": 1,
        "float_nodes": ["down"],
    }
    with pytest.raises(PassFailed, match=r"expected all 2, found 1; 'down' ran as MatMul"):
        check_kernels("p", kernels, ["up", "down"])
    # Another node's kernel does not stand for it, however many there are.
    with pytest.raises(PassFailed, match=r"expected all 1, found 0; 'gate' ran under no such"):
        check_kernels("p", kernels, ["gate"])


def test_graph_that_does_not_open_fails_in_one_line(graphs, tmp_path: Path) -> None:
    model = graphs.ffn()
    model.graph.node[0].op_type = "QAttention"
    path = save_onnx(model, tmp_path)
    with pytest.raises(PassFailed, match="one that ONNX Runtime opens, found") as failed:
        OnnxRun("p", path)
    assert "\n" not in str(failed.value)
