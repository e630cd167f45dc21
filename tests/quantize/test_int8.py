from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from compile.artifact import Store
from compile.errors import InputError
from compile.graph import MODEL, count_ops, load_onnx, save_onnx
from quantize.audit import PassFailed
from quantize.build import build
from quantize.calibrate import Range
from quantize.int8 import quantize_int8
from quantize.linear import linear_layers
from quantize.recipe import recipe_from_table
from quantize.rounding.channels import channel_codes


def recipe(**parameters):
    return recipe_from_table("r", {"passes": [{"pass": "int8", **parameters}]}, "test")


def quiet(_: str) -> None:
    pass


def initializer(model: onnx.ModelProto, name: str) -> np.ndarray:
    return next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == name)


def u8_oracle(x: np.ndarray, w: np.ndarray, low: float, high: float) -> np.ndarray:
    """x @ w with both rounded to their 8-bit grids, in float64."""
    scale = (max(high, 0) - min(low, 0)) / 255
    zero = np.round(-min(low, 0) / scale)
    rounded = (np.clip(np.round(x.astype(np.float64) / scale) + zero, 0, 255) - zero) * scale
    grid = np.abs(w).max(0).astype(np.float64) / 127
    return rounded @ (np.round(w / grid) * grid)


def test_channel_codes_are_within_half_a_step_and_use_the_whole_range() -> None:
    weight = np.random.default_rng(0).standard_normal((64, 9)).astype(np.float32)
    weight[:, 4] = 0
    codes, scales = channel_codes(weight, 8)
    assert (np.abs(codes * scales - weight) <= 0.5001 * scales).all()
    assert (np.abs(np.delete(codes, 4, 1)).max(axis=0) == 127).all()
    assert scales[4] == 1
    assert not codes[:, 4].any()
    assert np.abs(channel_codes(weight, 7)[0]).max() == 63


@pytest.mark.parametrize("mode", ["dynamic", "static"])
def test_all_layers_run_in_integers(mode: str, graphs, examples, store: Store) -> None:
    source = graphs.put(graphs.ffn())
    built = build(recipe(mode=mode), source, "onnx", store, examples(graphs.FFN), quiet)
    assert built.facts["layers"] == 2
    assert sum(built.facts["quantized_kernels"].values()) == 2
    assert built.facts["float_products"] == 0
    assert built.facts["snr_db"] > 30
    assert built.facts["weights_bytes"] <= 0.27 * built.facts["weights_bytes_before"]


def test_layers_left_in_float_are_named(graphs, store: Store) -> None:
    built = build(recipe(exclude=["down"]), graphs.put(graphs.ffn()), "onnx", store, None, quiet)
    assert (built.facts["float_products"], built.facts["float_nodes"]) == (1, ["down"])


def test_signed_activations_are_symmetric_and_run_in_integers(graphs, examples, store) -> None:
    """What TensorRT takes: QDQ of standard operators, int8 on both sides, zero points of 0."""
    data, source = examples(graphs.FFN), graphs.put(graphs.ffn())
    asked = recipe(mode="static", activations="s8", examples=16)
    built = build(asked, source, "onnx", store, data, quiet)
    model = load_onnx(built.folder)
    codes = {t.name: t.data_type for t in model.graph.initializer if t.name.endswith("__zero")}
    assert len(codes) == 4
    assert set(codes.values()) == {onnx.TensorProto.INT8}
    assert not any(initializer(model, name).any() for name in codes)
    assert {n.domain for n in model.graph.node} == {""}
    assert sum(built.facts["quantized_kernels"].values()) == 2
    assert (built.facts["activations"], built.facts["float_products"]) == ("s8", 0)
    largest = max(np.abs(f["x"]).max() for f in data.calibration(16))
    assert initializer(model, "x__scale") == pytest.approx(largest / 127, rel=1e-6)
    # One-sided values leave half of the codes unused: u8 keeps more of them.
    unsigned = build(recipe(mode="static", examples=16), source, "onnx", store, data, quiet)
    assert 1 < unsigned.facts["snr_db"] - built.facts["snr_db"] < 7


def test_signed_product_is_that_of_the_codes(graphs) -> None:
    """Against float64, and on a CPU, whose kernels turn signed codes into unsigned ones."""
    model, random = graphs.ffn(), np.random.default_rng(3)
    x = random.standard_normal((2, 7, 96)).astype(np.float32)
    weight = initializer(model, "up.weight")
    span = {"x": Range(float(x.min()), float(x.max()))}
    quantize_int8(model, linear_layers(model, ["down"]), [], span, 8, "s8")
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info("up_mm", 1, None))
    scale = np.abs(x).max() / 127.0
    grid = np.abs(weight).max(0).astype(np.float64) / 127
    oracle = (np.rint(x / scale) * scale) @ (np.rint(weight / grid) * grid)
    np.testing.assert_allclose(graphs.run(model, {"x": x}), oracle, rtol=1e-4, atol=2e-4)


def test_dynamic_ranges_of_signed_activations_are_refused() -> None:
    with pytest.raises(InputError, match='activations = "s8" needs mode = "static"'):
        recipe(activations="s8")


matrices = st.tuples(st.integers(1, 40), st.integers(1, 12), st.integers(0, 99))


def drawn(shape: tuple[int, int, int]) -> np.ndarray:
    rows, columns, seed = shape
    random = np.random.default_rng(seed)
    return (random.standard_normal((rows, columns)) * np.exp(random.normal(0, 2, columns))).astype(
        np.float32
    )


@given(shape=matrices, power=st.integers(-20, 20), bits=st.sampled_from([7, 8]))
@settings(deadline=None, max_examples=60)
def test_codes_keep_their_laws(shape: tuple[int, int, int], power: int, bits: int) -> None:
    """Within half a step; the same for a multiple of the weight; a permutation of the inputs
    permutes them, one of the outputs their scales as well."""
    weight = drawn(shape)
    codes, scales = channel_codes(weight, bits)
    assert (np.abs(codes * scales.astype(np.float64) - weight) <= 0.50001 * scales).all()
    multiplied, larger = channel_codes(weight * np.float32(2.0**power), bits)
    np.testing.assert_array_equal(multiplied, codes)
    np.testing.assert_array_equal(larger, scales * np.float32(2.0**power))
    rows, columns = (np.random.default_rng(1).permutation(n) for n in weight.shape)
    permuted, theirs = channel_codes(weight[rows][:, columns], bits)
    np.testing.assert_array_equal(permuted, codes[rows][:, columns])
    np.testing.assert_array_equal(theirs, scales[columns])


def test_graph_is_valid_at_its_opset(graphs, examples, store: Store) -> None:
    source = graphs.put(graphs.ffn())
    for mode in ("dynamic", "static"):
        built = build(recipe(mode=mode), source, "onnx", store, examples(graphs.FFN), quiet)
        onnx.checker.check_model(load_onnx(built.folder), full_check=True)


def test_dynamic_computes_what_rounding_to_8_bits_means(graphs) -> None:
    model = graphs.ffn()
    x = np.random.default_rng(3).standard_normal((2, 7, 96)).astype(np.float32)
    weight = initializer(model, "up.weight")
    quantize_int8(model, linear_layers(model, ["down"]), [], None, 8)
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info("up_mm", 1, None))
    oracle = u8_oracle(x, weight, x.min(), x.max())
    np.testing.assert_allclose(graphs.run(model, {"x": x}), oracle, rtol=1e-4, atol=2e-4)


def test_dynamic_agrees_with_onnx_runtimes_quantizer(graphs, tmp_path: Path) -> None:
    (tmp_path / "fp32").mkdir()
    (tmp_path / "ours").mkdir()
    model = graphs.ffn()
    path = save_onnx(model, tmp_path / "fp32")
    quantize_dynamic(
        path,
        tmp_path / "theirs.onnx",
        per_channel=True,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul"],
    )
    quantize_int8(model, linear_layers(model), [], None, 8)
    ours = save_onnx(model, tmp_path / "ours")
    feeds = graphs.FFN.feeds({"batch": 2, "sequence": 9}, 1)
    got, want = graphs.run(ours, feeds), graphs.run(tmp_path / "theirs.onnx", feeds)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
    theirs = onnx.load(tmp_path / "theirs.onnx")
    codes = initializer(theirs, "up.weight_quantized")
    np.testing.assert_array_equal(initializer(model, "up.weight__s8"), codes)


@pytest.mark.parametrize("mode", ["dynamic", "static"])
def test_layer_of_two_axes_with_bias_runs_in_integers(mode, graphs, examples, store) -> None:
    """A classification head: joined to a Gemm with a float bias it would stay in float."""
    source = graphs.put(graphs.flat(), graphs.FLAT)
    data = examples(graphs.FLAT)
    built = build(recipe(mode=mode), source, "onnx", store, data, quiet)
    assert sum(built.facts["quantized_kernels"].values()) == 1
    assert built.facts["float_products"] == 0
    x = next(iter(data.calibration(1)))["x"]
    model = graphs.flat()
    values = np.concatenate([f["x"].ravel() for f in data.calibration(128)])
    span = (x if mode == "dynamic" else values).min(), (x if mode == "dynamic" else values).max()
    oracle = u8_oracle(x, initializer(model, "w"), *span) + initializer(model, "b")
    got = graphs.run(built.folder / MODEL, {"x": x})
    np.testing.assert_allclose(got, oracle, rtol=1e-4, atol=5e-3)


def test_static_takes_its_scales_from_the_data(graphs, examples, store: Store) -> None:
    source = graphs.put(graphs.ffn())
    data = examples(graphs.FFN)
    built = build(recipe(mode="static", examples=8), source, "onnx", store, data, quiet)
    values = np.concatenate([f["x"].ravel() for f in data.calibration(8)])
    scale = initializer(load_onnx(built.folder), "x__scale")
    zero = initializer(load_onnx(built.folder), "x__zero")
    assert scale == pytest.approx((values.max() - values.min()) / 255, rel=1e-6)
    assert zero == round(-values.min() / scale)


def test_static_calibrates_on_what_there_is_and_counts_it(graphs, examples, store: Store) -> None:
    source = graphs.put(graphs.ffn())
    data = examples(graphs.FFN, held=20)
    built = build(recipe(mode="static"), source, "onnx", store, data, quiet)
    assert built.facts["calibration_examples"] == 20
    values = np.concatenate([f["x"].ravel() for f in data.calibration(20)])
    scale = initializer(load_onnx(built.folder), "x__scale")
    assert scale == pytest.approx((values.max() - values.min()) / 255, rel=1e-6)


def test_static_fails_on_too_few_examples_unless_fewer_are_asked_for(
    graphs, examples, store: Store
) -> None:
    source, data = graphs.put(graphs.ffn()), examples(graphs.FFN, held=15)
    message = r"passes\.examples: expected 128 examples .* at least 16, found 15 in the data's"
    with pytest.raises(PassFailed, match=message):
        build(recipe(mode="static"), source, "onnx", store, data, quiet)
    built = build(recipe(mode="static", examples=8), source, "onnx", store, data, quiet)
    assert built.facts["calibration_examples"] == 8


def test_other_data_gives_another_artifact_with_other_scales(graphs, examples, store) -> None:
    """A stale calibration cache would give the same."""
    source, asked = graphs.put(graphs.ffn()), recipe(mode="static")
    first = build(asked, source, "onnx", store, examples(graphs.FFN, "one"), quiet)
    second = build(asked, source, "onnx", store, examples(graphs.FFN, "two", scale=3), quiet)
    again = build(asked, source, "onnx", store, examples(graphs.FFN, "one"), quiet)
    assert first.key != second.key
    assert again.key == first.key
    scales = [initializer(load_onnx(a.folder), "x__scale") for a in (first, second)]
    assert scales[1] == pytest.approx(3 * scales[0], rel=1e-5)


def test_dynamic_is_the_same_artifact_whatever_the_data(graphs, examples, store: Store) -> None:
    source, asked = graphs.put(graphs.ffn()), recipe()
    one = build(asked, source, "onnx", store, examples(graphs.FFN, "one"), quiet)
    assert build(asked, source, "onnx", store, None, quiet).key == one.key


def test_static_without_data_is_refused(graphs, store: Store) -> None:
    with pytest.raises(InputError, match="pass 'int8' needs data; give the model a task"):
        build(recipe(mode="static"), graphs.put(graphs.ffn()), "onnx", store, None, quiet)


def test_gemm_is_refused_instead_of_skipped(graphs, store: Store) -> None:
    with pytest.raises(PassFailed, match="every product with a constant, found 2 it cannot take"):
        build(recipe(), graphs.put(graphs.ffn("Gemm")), "onnx", store, None, quiet)


def test_graph_without_layers_is_an_error(graphs, store: Store) -> None:
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    infos = [onnx.helper.make_tensor_value_info(n, 1, ["batch", "sequence", 96]) for n in "xy"]
    model = graphs.finished(onnx.helper.make_graph([node], "g", infos[:1], infos[1:]))
    with pytest.raises(PassFailed, match="no MatMul by a constant matrix"):
        build(recipe(), graphs.put(model), "onnx", store, None, quiet)


def test_embeddings_are_coded_by_row(graphs, store: Store) -> None:
    source = graphs.put(graphs.tied(), graphs.TIED)
    built = build(recipe(embeddings=True), source, "onnx", store, None, quiet)
    model = load_onnx(built.folder)
    assert initializer(model, "table__rows").dtype == np.int8
    table = initializer(graphs.tied(), "table")
    rebuilt = initializer(model, "table__rows") * initializer(model, "table__rows__scale")
    assert (np.abs(rebuilt - table) <= 0.5001 * np.abs(table).max(1, keepdims=True) / 127).all()
    assert built.facts["weights_ratio"] < 0.27


@pytest.mark.parametrize("ranges", [None, {"x": Range(-4, 4), "active": Range(-1, 4)}])
def test_layers_that_share_a_weight_share_its_codes(ranges, graphs) -> None:
    model = graphs.ffn()
    nodes = {node.name: node for node in model.graph.node}
    twin = onnx.helper.make_node("MatMul", ["active", "down.weight"], ["again"], name="twin")
    nodes["residual"].input[0] = "again"
    # The second product goes in front, so that the graph stays in topological order.
    model.graph.node.insert(list(nodes).index("down"), twin)

    quantize_int8(model, linear_layers(model), [], ranges, 8)

    names = [tensor.name for tensor in model.graph.initializer]
    assert len(names) == len(set(names))
    assert "down.weight__s8" in names
    assert "down.weight" not in names
    onnx.checker.check_model(model)
    assert np.isfinite(graphs.run(model, {"x": np.ones((1, 2, 96), np.float32)})).all()


def test_nothing_in_float_is_left_beside_the_codes(graphs, store: Store) -> None:
    built = build(recipe(), graphs.put(graphs.ffn()), "onnx", store, None, quiet)
    model = load_onnx(built.folder)
    big = [t.name for t in model.graph.initializer if t.data_type == 1 and len(t.dims) > 1]
    assert big == []
    assert count_ops(model)["MatMulInteger"] == 2
    assert (built.folder / MODEL).stat().st_size < 0.4 * 4 * 2 * 96 * 128
