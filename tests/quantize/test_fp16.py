from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from onnxruntime.transformers import float16

from compile.artifact import Artifact, Store
from compile.errors import Unsupported
from compile.graph import infer_shapes, load_onnx, tensor_bytes
from compile.models.model import load_model
from quantize.audit import PassFailed
from quantize.build import build
from quantize.half import check_range
from quantize.recipe import recipe_from_table


def recipe(name: str = "fp16", **parameters):
    return recipe_from_table("r", {"passes": [{"pass": name, **parameters}]}, "test")


def quiet(_: str) -> None:
    pass


def with_weight(model: onnx.ModelProto, name: str, values: np.ndarray) -> onnx.ModelProto:
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))
    return model


def test_graph_keeps_float32_at_its_ends_and_half_inside(graphs, store: Store) -> None:
    built = build(recipe(), graphs.put(graphs.ffn()), "onnx", store, None, quiet)
    model = load_onnx(built.folder)
    onnx.checker.check_model(model, full_check=True)
    ends = [*model.graph.input, *model.graph.output]
    assert {e.type.tensor_type.elem_type for e in ends} == {TensorProto.FLOAT}
    assert {t.data_type for t in model.graph.initializer} == {TensorProto.FLOAT16}
    values = 2 * 96 * 128 + 128 + 3 * 96
    assert built.facts["weights_bytes_before"] == 4 * values
    assert built.facts["weights_bytes"] == sum(map(tensor_bytes, model.graph.initializer))
    assert built.facts["weights_ratio"] == 0.5
    assert built.facts["kept"] == 0
    assert built.facts["snr_db"] > 50


def test_excluded_node_keeps_its_float32_weight(graphs, store: Store) -> None:
    source = graphs.put(graphs.ffn())
    built = build(recipe(exclude=["down"]), source, "onnx", store, None, quiet)
    types = {t.name: t.data_type for t in load_onnx(built.folder).graph.initializer}
    assert types["down.weight"] == TensorProto.FLOAT
    assert types["up.weight"] == TensorProto.FLOAT16
    assert built.facts["kept_nodes"] == ["down"]
    # Of what was to be halved: the excluded weight is not counted.
    assert built.facts["weights_bytes"] == 2 * (96 * 128 + 128 + 3 * 96)
    assert built.facts["weights_ratio"] == 0.5


def test_weights_that_the_converter_left_in_float32_fail(
    graphs, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As its block list does, for a node that nobody excluded."""
    converter = float16.convert_float_to_float16

    def leaving(model: onnx.ModelProto, node_block_list: list[str], **options):
        return converter(model, node_block_list=[*node_block_list, "down"], **options)

    monkeypatch.setattr(float16, "convert_float_to_float16", leaving)
    share = (4 * 12288 + 2 * (12288 + 128 + 3 * 96)) / (4 * (2 * 12288 + 128 + 3 * 96))
    expected = rf"bytes of weights: expected at most 0.5 of .* found {share:.3g} of them"
    with pytest.raises(PassFailed, match=expected):
        build(recipe(), graphs.put(graphs.ffn()), "onnx", store, None, quiet)


def test_nothing_to_halve_fails(graphs, store: Store) -> None:
    with pytest.raises(PassFailed, match="at least one float32 tensor, found none"):
        build(recipe(exclude=["*"]), graphs.put(graphs.ffn()), "onnx", store, None, quiet)


def test_weight_beyond_half_precision_is_refused_by_name(graphs, store: Store) -> None:
    big = np.full((128, 96), 1e-3)
    big[5, 7] = 7e4
    source = graphs.put(with_weight(graphs.ffn(), "down.weight", big))
    with pytest.raises(PassFailed, match=r"range of 'down.weight': .* found 70000; .*exclude"):
        build(recipe(), source, "onnx", store, None, quiet)
    # Its product does not fit either, so float32 has to last to the norm.
    asked = recipe(exclude=["down*", "residual", "norm"])
    kept = build(asked, source, "onnx", store, None, quiet)
    assert (kept.facts["converted"], kept.facts["kept"]) == (2, 4)


def test_weights_that_vanish_are_counted(graphs, store: Store) -> None:
    small = np.full((128, 96), 0.1)
    small[0, :3] = 1e-9
    source = graphs.put(with_weight(graphs.ffn(), "down.weight", small))
    built = build(recipe(), source, "onnx", store, None, quiet)
    assert built.facts["underflowed"] == 3


def test_mask_value_is_clamped_and_reported(graphs, store: Store) -> None:
    lowest = float(np.finfo(np.float32).min)
    model = graphs.ffn()
    model.graph.initializer.append(numpy_helper.from_array(np.float32(lowest), "lowest"))
    model.graph.node.insert(0, onnx.helper.make_node("Max", ["x", "lowest"], ["kept"], name="max"))
    next(n for n in model.graph.node if n.name == "up").input[0] = "kept"
    built = build(recipe(), graphs.put(model), "onnx", store, None, quiet)
    assert built.facts["clamped"] == {"lowest": str(lowest)}


def test_operator_of_onnx_runtimes_own_is_converted_with_its_neighbours(graphs, store) -> None:
    """ONNX cannot infer its type, and ``Pow`` behind it has to stay in float32."""
    model = graphs.ffn()
    gelu = next(n for n in model.graph.node if n.name == "gelu")
    gelu.domain = "com.microsoft"
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(2), "two"))
    at = list(model.graph.node).index(gelu) + 1
    model.graph.node.insert(at, onnx.helper.make_node("Pow", ["active", "two"], ["sq"], name="p"))
    next(n for n in model.graph.node if n.name == "down").input[0] = "sq"
    infer_shapes(model)
    assert "active" not in {value.name for value in model.graph.value_info}
    built = build(recipe(), graphs.put(model), "onnx", store, None, quiet)
    casts = [n for n in load_onnx(built.folder).graph.node if n.op_type == "Cast"]
    assert len(casts) == 4
    assert built.facts["snr_db"] > 50


def test_arithmetic_that_overflows_fails(graphs, store: Store) -> None:
    """Weights fit, products do not."""
    source = graphs.put(with_weight(graphs.ffn(), "up.weight", np.full((96, 128), 6e4)))
    with pytest.raises(PassFailed, match=r"finite ones|signal-to-noise"):
        build(recipe(), source, "onnx", store, None, quiet)


@pytest.mark.parametrize(("name", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_torch_module_is_stored_in_half_the_bytes(
    name: str, dtype: torch.dtype, classifier: Artifact, store: Store
) -> None:
    built = build(recipe(name), classifier, "torch", store, None, quiet)
    assert {p.dtype for p in load_model(built.folder).module.parameters()} == {dtype}
    assert built.facts["weights_ratio"] == 0.5
    assert built.facts["snr_db"] > (50 if name == "fp16" else 30)
    assert built.kind == "torch"


def test_torch_weight_beyond_half_precision_is_refused(classifier: Artifact, store: Store) -> None:
    from compile.artifact import Step
    from compile.models.model import save_model

    model = load_model(classifier.folder)
    with torch.no_grad():
        next(model.module.parameters())[0, 0] = 1e5
    big = store.derive(Step("big", 1), None, lambda folder: save_model(model, folder))
    with pytest.raises(
        PassFailed, match=r"'embedding\.tokens\.weight': .* 65504, found 100000; bf16"
    ):
        build(recipe(), big, "torch", store, None, quiet)
    build(recipe("bf16"), big, "torch", store, None, quiet)


def test_bf16_for_onnx_is_unsupported_with_the_reason(classifier: Artifact, store: Store) -> None:
    with pytest.raises(Unsupported, match="no bfloat16 kernels for the CPU"):
        build(recipe("bf16"), classifier, "onnx", store, None, quiet)


def test_excluding_nodes_of_a_torch_module_is_unsupported(classifier, store: Store) -> None:
    with pytest.raises(Unsupported, match="nodes of ONNX graphs only"):
        build(recipe(exclude=["head"]), classifier, "torch", store, None, quiet)


def with_buffers(**buffers: tuple[torch.Tensor, bool]) -> torch.nn.Module:
    module = torch.nn.Sequential(torch.nn.Linear(2, 2))
    with torch.no_grad():
        module[0].weight.fill_(0.5)
        module[0].bias.fill_(0.5)
    for name, (tensor, persistent) in buffers.items():
        module.register_buffer(name, tensor, persistent=persistent)
    return module


def test_buffer_beyond_half_precision_is_refused_by_name() -> None:
    table = torch.tensor([1.0, -7e4, torch.inf, -torch.inf])
    with pytest.raises(PassFailed, match=r"range of 'table': .* up to 65504, found 70000"):
        check_range("fp16", with_buffers(table=(table, True)), torch.float16)
    # What is not saved is made anew by the module itself, whose own affair its type is.
    beside = with_buffers(table=(table, False), counts=(torch.tensor([70000, 1]), True))
    assert check_range("fp16", beside, torch.float16) == {"clamped": {}, "underflowed": 0}
    assert check_range("bf16", with_buffers(table=(table, True)), torch.bfloat16)["clamped"] == {}


def test_single_number_of_a_module_is_clamped_and_small_ones_are_counted() -> None:
    lowest = torch.tensor(-1e9)
    masks = torch.tensor([0.0, -torch.inf, 1e-9, -2e-8, 6e-8])
    module = with_buffers(lowest=(lowest, True), masks=(masks, True))
    with torch.no_grad():
        module[0].weight[0, 1] = 1e-9
    facts = check_range("fp16", module, torch.float16)
    assert facts == {"clamped": {"lowest": "-1000000000.0"}, "underflowed": 3}
    assert module.lowest.item() == -65504
    assert module.masks[1] == -torch.inf


def test_range_of_a_module_is_told_in_the_lineage(classifier: Artifact, store: Store) -> None:
    facts = build(recipe(), classifier, "torch", store, None, quiet).facts
    assert (facts["clamped"], facts["underflowed"]) == ({}, 0)
