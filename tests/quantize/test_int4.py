from __future__ import annotations

import numpy as np
import onnx
import pytest

from compile.artifact import Store
from compile.graph import MODEL, count_ops, load_onnx
from quantize.audit import PassFailed, decibels, signal_and_noise
from quantize.build import build
from quantize.recipe import recipe_from_table


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
