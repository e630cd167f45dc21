from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from compile.artifact import Artifact, Step, Store
from compile.errors import InputError
from compile.export import export_onnx
from compile.graph import MODEL, array, count_ops, load_onnx, nodes_of
from compile.models.config import TransformerConfig
from compile.models.model import save_model, transformer_model
from compile.parity import parity_feeds
from compile.signature import Signature, TensorSpec
from quantize.attention import activation_products, spell_out_attention
from quantize.audit import PassFailed
from quantize.build import build
from quantize.recipe import recipe_from_table


def recipe(**parameters):
    table = {"passes": [{"pass": "int8", "mode": "static", **parameters}]} if parameters else {}
    return recipe_from_table("r", {"passes": [], **table}, "test")


def quiet(_: str) -> None:
    pass


@pytest.fixture(scope="module", params=["encoder", "decoder"])
def source(request, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Exported once. The decoder has a cache, a causal mask, and two query heads for each head of
    keys and values."""
    settings: dict = {"kind": "encoder", "kv_heads": 4, "segments": 2, "classes": 4}
    if request.param == "decoder":
        settings = {"kind": "decoder", "kv_heads": 2, "position": "rotary", "head": "causal-lm"}
        settings |= {"norm": "rmsnorm", "norm_first": True, "activation": "swiglu"}
    config = TransformerConfig(
        vocabulary=50, max_sequence=32, width=32, layers=2, ffn=48, heads=4, **settings
    )
    model = transformer_model("tiny", config)
    with torch.no_grad():
        for layer in model.module.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.weight.mul_(6)
    store = Store(tmp_path_factory.mktemp("store"))
    step = Step("test-torch", 1, {"kind": request.param})
    return export_onnx(store.derive(step, None, lambda folder: save_model(model, folder)), store)


def test_spelled_out_it_computes_the_same(source: Artifact, graphs) -> None:
    model = load_onnx(source.folder)
    assert count_ops(model)["Attention"] == 2
    assert activation_products(model) == []
    spell_out_attention(model)
    onnx.checker.check_model(model, full_check=True)
    assert "Attention" not in count_ops(model)
    products = [node.name for node in activation_products(model)]
    assert len(products) == len(set(products)) == 4
    assert all(name.endswith((".scores", ".values")) for name in products)
    for _, feeds in parity_feeds(source.signature):
        want, got = graphs.run(source.folder / MODEL, feeds), graphs.run(model, feeds)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("activations", ["u8", "s8"])
def test_both_products_run_in_integers(activations: str, source, examples, store: Store) -> None:
    asked = recipe(activations=activations, attention=True, examples=16)
    built = build(asked, source, "onnx", store, examples(source.signature), quiet)
    assert built.facts["attention_products"] == 4
    assert sum(built.facts["quantized_kernels"].values()) == built.facts["layers"] + 4
    assert built.facts["float_products"] == 0
    assert "float_attention" not in built.facts
    assert built.facts["snr_db"] > 20


def test_layers_that_share_a_signed_input_run_in_integers(source, examples, store: Store) -> None:
    """ONNX Runtime on x86 leaves those in float that share an input, unless told."""
    asked = recipe(activations="s8", examples=16)
    built = build(asked, source, "onnx", store, examples(source.signature), quiet)
    assert built.facts["quantized_kernels"] == {"MatMulIntegerToFloat": built.facts["layers"]}
    assert built.facts["layers"] >= 14
    assert (built.facts["float_products"], built.facts["float_attention"]) == (0, 2)


ROWS = Signature(
    (TensorSpec("x", "float32", ("batch", "sequence", 24)),),
    (TensorSpec("y", "float32", ("batch", "sequence", 24)),),
)


def gram_graph(graphs) -> onnx.ModelProto:
    """y = (x x^T) x and a layer behind it."""
    random = np.random.default_rng(4)
    infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "sequence", 24])
        for name in "xy"
    ]
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], name="turn", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["x", "t"], ["gram"], name="gram"),
        helper.make_node("MatMul", ["gram", "x"], ["mixed"], name="mixed"),
        helper.make_node("MatMul", ["mixed", "w"], ["y"], name="layer"),
    ]
    weight = onnx.numpy_helper.from_array(random.standard_normal((24, 24)).astype(np.float32), "w")
    return graphs.finished(helper.make_graph(nodes, "g", infos[:1], infos[1:], [weight]))


def test_product_is_that_of_the_codes(graphs, examples, store: Store) -> None:
    """Against float64, from the scales and zero points in the file."""
    data, source = examples(ROWS), graphs.put(gram_graph(graphs), ROWS)
    asked = recipe(attention=True, examples=16)
    built = build(asked, source, "onnx", store, data, quiet)
    stored = {
        t.name: array(t).astype(np.float64) for t in load_onnx(built.folder).graph.initializer
    }

    def rounded(name: str, values: np.ndarray) -> np.ndarray:
        scale, zero = stored[f"{name}__scale"], stored[f"{name}__zero"]
        return (np.clip(np.rint(values / scale) + zero, 0, 255) - zero) * scale

    x = next(iter(data.calibration(1)))["x"].astype(np.float64)
    gram = rounded("x", x) @ rounded("t", x.transpose(0, 2, 1))
    mixed = rounded("gram", gram) @ rounded("x", x)
    want = rounded("mixed", mixed) @ (stored["w__s8"] * stored["w__scale"])
    got = graphs.run(built.folder / MODEL, {"x": x.astype(np.float32)})
    # One code of the Gram matrix more or less, where rounding meets a half in float32.
    np.testing.assert_allclose(got, want, rtol=1e-2, atol=1e-2 * np.abs(want).max())
    assert np.median(np.abs(got - want)) < 1e-5 * np.abs(want).max()
    assert built.facts["attention_products"] == 2


def test_a_product_can_be_excluded_by_name(graphs, examples, store: Store) -> None:
    data, source = examples(ROWS), graphs.put(gram_graph(graphs), ROWS)
    asked = recipe(attention=True, examples=16, exclude=["gram"])
    built = build(asked, source, "onnx", store, data, quiet)
    assert (built.facts["attention_products"], built.facts["float_nodes"]) == (1, ["gram"])
    (left,) = (n for n in nodes_of(load_onnx(built.folder), "MatMul") if n.name == "gram")
    assert list(left.input) == ["x", "t"]


def test_where_nothing_is_attended_to_it_fails(graphs, examples, store: Store) -> None:
    source, asked = graphs.put(graphs.ffn()), recipe(attention=True, examples=16)
    with pytest.raises(PassFailed, match="products of two activations: expected at least one"):
        build(asked, source, "onnx", store, examples(graphs.FFN), quiet)


def test_dynamic_ranges_of_attention_are_refused() -> None:
    with pytest.raises(InputError, match='attention = true needs mode = "static"'):
        recipe(mode="dynamic", attention=True)
