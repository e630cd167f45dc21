"""Attention as products of two activations, which can be quantized one by one.

The standard operator is one kernel that computes in float. ONNX defines it by smaller ones, and
putting these in its place makes both of its products visible:

    scores = (q sqrt(scale)) (k^T sqrt(scale)),   values = softmax(scores + mask) v
"""

from __future__ import annotations

from onnx import ModelProto, NodeProto, inliner

from compile.canonical import canonicalise
from compile.graph import EXTERNAL_TENSOR, nodes_of, without_data
from quantize.products import constant_products

PARTS = ("scores", "values")


def spell_out_attention(model: ModelProto) -> None:
    """Put its definition in the place of each standard Attention of the main graph, in place.

    Its products are called ``NODE.scores`` and ``NODE.values``.
    """
    attentions = [n for n in nodes_of(model, "Attention") if n.domain in ("", "ai.onnx")]
    if not attentions:
        return
    # The inliner serialises what it is given, which ends at 2 GiB.
    light = without_data(model, EXTERNAL_TENSOR)
    wanted = [(domain, "Attention") for domain in ("", "ai.onnx")]
    spelled = inliner.inline_selected_functions(light, wanted, inline_schema_functions=True)
    names = iter(f"{node.name}.{part}" for node in attentions for part in PARTS)
    for node in spelled.graph.node:
        if node.op_type == "MatMul" and not node.name:
            node.name = next(names)
    for field in ("node", "value_info"):
        model.graph.ClearField(field)
        getattr(model.graph, field).extend(getattr(spelled.graph, field))
    canonicalise(model)


def activation_products(model: ModelProto) -> list[NodeProto]:
    """Every MatMul of the main graph with no constant factor."""
    constant = {product.node.output[0] for product in constant_products(model)}
    return [n for n in nodes_of(model, "MatMul") if n.output[0] not in constant]
