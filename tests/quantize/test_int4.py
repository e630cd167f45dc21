from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from compile.artifact import Store
from compile.errors import Incorrect, InputError
from compile.graph import MODEL, count_ops, load_onnx
from quantize.audit import PassFailed, decibels, signal_and_noise
from quantize.build import build
from quantize.recipe import recipe_from_table
from quantize.rounding.rtn import round_to_nearest


def recipe(**parameters):
    return recipe_from_table("r", {"passes": [{"pass": "int4", **parameters}]}, "test")


def quiet(_: str) -> None:
    pass


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("block", [16, 32, 64, 128])
def test_every_layer_becomes_matmulnbits(block: int, symmetric: bool, graphs, store: Store) -> None:
    source = graphs.put(graphs.ffn())
    built = build(recipe(block=block, symmetric=symmetric), source, "onnx", store, None, quiet)
    ops = count_ops(load_onnx(built.folder))
    assert ops["MatMulNBits"] == 2
    assert "MatMul" not in ops
    assert built.facts["layers"] == 2
    assert built.facts["quantized_kernels"] == {"MatMulNBits": 2}
    assert built.facts["float_products"] == 0


def test_bytes_of_weights_are_what_was_asked_for(graphs, store: Store) -> None:
    """4 bits asked are 4 bits got: 96 x 128 and 128 x 96 weights in blocks of 32."""
    source = graphs.put(graphs.ffn())
    built = build(recipe(block=32), source, "onnx", store, None, quiet)
    values = 2 * 96 * 128
    assert built.facts["weights_bytes_before"] == 4 * values
    assert built.facts["weights_bytes"] == values // 2 + 4 * values // 32
    assert built.facts["weights_ratio"] == 0.1562
    node = next(n for n in load_onnx(built.folder).graph.node if n.op_type == "MatMulNBits")
    attributes = {a.name: a.i for a in node.attribute}
    assert attributes == {"K": 96, "N": 128, "bits": 4, "block_size": 32, "accuracy_level": 4}


def test_signal_to_noise_recorded_is_that_of_the_outputs(graphs, store: Store) -> None:
    source = graphs.put(graphs.ffn())
    built = build(recipe(accuracy_level=0), source, "onnx", store, None, quiet)
    feeds = graphs.FFN.feeds({"batch": 4, "sequence": 64}, 9)
    want, got = (graphs.run(a.folder / MODEL, feeds) for a in (source, built))
    assert decibels(*signal_and_noise(want, got)) == pytest.approx(built.facts["snr_db"], abs=1.0)


@pytest.mark.parametrize(("bits", "stored"), [(2, 2), (3, 4), (4, 4), (8, 8)])
def test_bits_of_the_file_are_those_that_the_kernel_reads(
    bits: int, stored: int, graphs, store: Store
) -> None:
    asked = recipe(bits=bits, accuracy_level=0, min_snr_db=0)
    built = build(asked, graphs.put(graphs.ffn()), "onnx", store, None, quiet)
    values = 2 * 96 * 128
    assert built.facts["weights_bytes"] == values * stored // 8 + 4 * values // 32
    assert built.facts["quantized_kernels"] == {"MatMulNBits": 2}
    assert built.facts["snr_db"] > {2: 2, 3: 10, 4: 15, 8: 40}[bits]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_qdq_is_standard_onnx_and_stands_for_the_same_weights(
    bits: int, symmetric: bool, graphs, store: Store
) -> None:
    source = graphs.put(graphs.ffn())
    ours, theirs = (
        build(recipe(bits=bits, symmetric=symmetric, **form), source, "onnx", store, None, quiet)
        for form in ({"form": "QDQ"}, {"form": "MatMulNBits"})
    )
    model = load_onnx(ours.folder)
    assert {node.domain for node in model.graph.node} == {""}
    assert [opset.domain for opset in model.opset_import] == [""]
    feeds = graphs.FFN.feeds({"batch": 3, "sequence": 5}, 2)
    fused, nbits = (graphs.run(a.folder / MODEL, feeds) for a in (ours, theirs))
    # ONNX Runtime turns it into MatMulNBits of level 4, its default.
    assert ours.facts["quantized_kernels"] == {"MatMulNBits": 2}
    np.testing.assert_allclose(fused, nbits, rtol=1e-4, atol=1e-4)
    # By the letter of ONNX: the weights that the codes stand for, multiplied in float.
    for tensor, name in zip(("up__dq", "down__dq"), ("up", "down"), strict=True):
        weight = next(t for t in graphs.ffn().graph.initializer if t.name == f"{name}.weight")
        codes = round_to_nearest(onnx.numpy_helper.to_array(weight), 32, symmetric, bits)
        made = dequantized(model, tensor.replace("__", ".weight__"))
        np.testing.assert_array_equal(made, codes.dequantize())


def dequantized(model: onnx.ModelProto, name: str) -> np.ndarray:
    """What a DequantizeLinear of the model gives, by ONNX's own reference."""
    node = next(n for n in model.graph.node if n.output[0] == name)
    constants = [t for t in model.graph.initializer if t.name in node.input]
    result = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph([node], "one", [], [result], constants)
    alone = onnx.helper.make_model(graph, opset_imports=model.opset_import)
    return ReferenceEvaluator(alone).run(None, {})[0]


def test_qdq_of_an_old_opset_is_refused_with_the_way_out(graphs, store: Store) -> None:
    old = graphs.ffn()
    old.opset_import[0].version = 20
    with pytest.raises(PassFailed, match=r"opset: expected 21.*found 20; form = \"MatMulNBits\""):
        build(recipe(form="QDQ"), graphs.put(old), "onnx", store, None, quiet)


@pytest.mark.parametrize("symmetric", [True, False])
def test_gptq_says_what_it_gained_and_its_graph_has_those_weights(
    symmetric: bool, graphs, examples, store: Store
) -> None:
    source, data = graphs.put(graphs.ffn()), examples(graphs.FFN)
    asked = {"symmetric": symmetric, "accuracy_level": 0}
    gptq = recipe(rounding="gptq", examples=32, **asked)
    built = build(gptq, source, "onnx", store, data, quiet)
    plain = build(recipe(**asked), source, "onnx", store, None, quiet)
    assert built.facts["calibration_examples"] == 32
    ours, nearest = built.facts["output_snr_db"], built.facts["output_snr_db_rtn"]
    assert list(ours) == ["up.weight", "down.weight"]
    # What GELU lets through is correlated; the inputs are independent noise.
    assert ours["down.weight"] > nearest["down.weight"] + 1
    assert ours["up.weight"] > nearest["up.weight"]
    want, got, rounded = (
        np.concatenate(
            [graphs.run(a.folder / MODEL, feeds).reshape(-1) for feeds in data.calibration(32)]
        )
        for a in (source, built, plain)
    )
    gained = decibels(*signal_and_noise(want, got)) - decibels(*signal_and_noise(want, rounded))
    assert gained > 0.5
    assert built.facts["weights_bytes"] == plain.facts["weights_bytes"]


def test_gptq_is_another_artifact_with_other_data(graphs, examples, store: Store) -> None:
    source = graphs.put(graphs.ffn())
    asked = recipe(rounding="gptq", examples=16)
    one, other = (
        build(asked, source, "onnx", store, examples(graphs.FFN, name), quiet)
        for name in ("one", "other")
    )
    assert one.key != other.key


def test_gptq_needs_data_and_enough_of_it(graphs, examples, store: Store) -> None:
    source = graphs.put(graphs.ffn())
    with pytest.raises(InputError, match="int4"):
        build(recipe(rounding="gptq"), source, "onnx", store, None, quiet)
    few = examples(graphs.FFN, held=3)
    with pytest.raises(PassFailed, match=r"passes.examples: expected 128 examples.*found 3"):
        build(recipe(rounding="gptq"), source, "onnx", store, few, quiet)


def test_gptq_of_weights_that_are_not_finite_names_the_activation(
    graphs, examples, store: Store
) -> None:
    data = examples(graphs.FFN)
    broken = graphs.ffn()
    tensor = next(t for t in broken.graph.initializer if t.name == "up.weight")
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[0, 0] = np.nan
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, "up.weight"))
    with pytest.raises(Incorrect, match="activation 'active' is not finite"):
        build(recipe(rounding="gptq", examples=16), graphs.put(broken), "onnx", store, data, quiet)


def test_hqq_loses_less_than_nearest(graphs, store: Store) -> None:
    source = graphs.put(graphs.ffn())
    ratios = [
        build(
            recipe(rounding=rounding, symmetric=False, accuracy_level=0),
            source,
            "onnx",
            store,
            None,
            quiet,
        ).facts["snr_db"]
        for rounding in ("hqq", "rtn")
    ]
    assert ratios[0] > ratios[1]


def test_gemm_is_refused_instead_of_skipped(graphs, store: Store) -> None:
    source = graphs.put(graphs.ffn("Gemm"))
    with pytest.raises(PassFailed, match=r"nodes matched.*Gemm.*canonical"):
        build(recipe(), source, "onnx", store, None, quiet)


def test_excluded_layer_is_left_and_listed(graphs, store: Store) -> None:
    source = graphs.put(graphs.ffn())
    built = build(recipe(exclude=["down*"]), source, "onnx", store, None, quiet)
    assert count_ops(load_onnx(built.folder))["MatMul"] == 1
    assert built.facts["layers_excluded"] == {"down": "excluded by 'down*'"}
    assert built.facts["float_products"] == 1


def test_excluding_everything_is_an_error(graphs, store: Store) -> None:
    source = graphs.put(graphs.ffn())
    with pytest.raises(PassFailed, match="all 2 are excluded by name"):
        build(recipe(exclude=["*"]), source, "onnx", store, None, quiet)


@pytest.mark.parametrize("symmetric", [True, False])
def test_embeddings_and_tied_head_are_quantized_apart(
    symmetric: bool, graphs, store: Store
) -> None:
    source = graphs.put(graphs.tied(), graphs.TIED)
    asked = recipe(embeddings=True, symmetric=symmetric, accuracy_level=0)
    built = build(asked, source, "onnx", store, None, quiet)
    model = load_onnx(built.folder)
    assert count_ops(model) == {"GatherBlockQuantized": 1, "MatMulNBits": 1}
    assert all(
        t.data_type != onnx.TensorProto.FLOAT or t.name.endswith("__scales")
        for t in model.graph.initializer
    )
    assert built.facts["embeddings"] == 1

    ids = np.arange(40)[None]
    table = onnx.numpy_helper.to_array(graphs.tied().graph.initializer[0]).astype(np.float64)
    got = graphs.run(built.folder / MODEL, {"ids": ids})
    assert decibels(*signal_and_noise(table @ table.T, got[0])) > 15


def test_embedding_is_skipped_with_reason_when_rows_are_no_whole_blocks(graphs, store) -> None:
    source = graphs.put(graphs.tied(), graphs.TIED)
    built = build(recipe(embeddings=True, block=128), source, "onnx", store, None, quiet)
    assert built.facts["embeddings"] == 0
    assert built.facts["embeddings_skipped"] == {"embed": "rows of 96 are not whole blocks of 128"}


def test_int4_of_int4_is_refused(graphs, store: Store) -> None:
    source = graphs.put(graphs.ffn())
    built = build(recipe(), source, "onnx", store, None, quiet)
    with pytest.raises(PassFailed, match="none \\(the graph has no MatMul"):
        build(recipe(block=64), built, "onnx", store, None, quiet)


def test_signal_floor_is_enforced(graphs, store: Store) -> None:
    source = graphs.put(graphs.ffn())
    with pytest.raises(PassFailed, match="signal-to-noise ratio of 'y': expected at least 90 dB"):
        build(recipe(min_snr_db=90), source, "onnx", store, None, quiet)
