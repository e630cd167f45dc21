"""One canonical form for all ONNX graphs, so that every pass meets the same few patterns.

- weights are initializers: no Constant nodes, no initializer doubles as an overridable input;
- every linear layer is MatMul with an untransposed ``(in, out)`` weight, then Add: the 4-bit
  quantizers skip Gemm, and a Transpose, Cast or Reshape in front of a weight hides it from all
  of them;
- an attention mask has its query axis written out: ONNX lets it be broadcast, ONNX Runtime's
  Attention refuses that;
- no Identity, no node or initializer that nothing reads;
- every node has a name of its own, in branches and loop bodies too.

The values computed stay the same; ``compile.parity`` holds every caller to that.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import helper, numpy_helper

from compile.constants import fold_constants, lift_constants
from compile.edit import remove, rename_reads
from compile.gemm import split_gemms
from compile.graph import (
    array,
    fresh_name,
    infer_shapes,
    initializers,
    nodes_of,
    shapes,
    subgraphs,
    taken_names,
    tensor_bytes,
)


def canonicalise(model: onnx.ModelProto) -> dict[str, int]:
    """Bring the model into canonical form, in place, and infer its shapes again.

    Returns what was done: ``gemm_split``, ``identity_removed``, ``constants_folded``,
    ``constants_lifted``, ``nodes_removed``, ``initializers_removed``, ``masks_expanded``, and
    ``tied_bytes``: the bytes of the weights that are kept twice, as an embedding and transposed
    as a linear layer.
    """
    done = {
        "constants_lifted": lift_constants(model),
        "identity_removed": _remove_identities(model),
        "gemm_split": split_gemms(model),
    }
    done["constants_folded"] = fold_constants(model)
    done["nodes_removed"] = _remove_dead_nodes(model)
    done["initializers_removed"] = _remove_dead_initializers(model)
    done["tied_bytes"] = _tied_bytes(model)
    infer_shapes(model)
    done["masks_expanded"] = _expand_masks(model)
    _name_nodes(node for graph in subgraphs(model.graph) for node in graph.node)
    infer_shapes(model)
    return done


def _remove_identities(model: onnx.ModelProto) -> int:
    graph = model.graph
    outputs = {value.name for value in graph.output}
    made = {name for node in graph.node for name in node.output}
    removed: list[onnx.NodeProto] = []
    rename: dict[str, str] = {}
    for node in graph.node:
        if node.op_type != "Identity" or node.domain not in ("", "ai.onnx"):
            continue
        source = rename.get(node.input[0], node.input[0])
        target = node.output[0]
        if target not in outputs:
            rename[target] = source
        elif source in made and source not in outputs:
            # The output's name is promised, so the value that feeds it takes it over.
            rename = {old: target if new == source else new for old, new in rename.items()}
            rename[source] = target
            outputs.add(source)
        else:  # an input, an initializer or another output handed straight out
            continue
        removed.append(node)
    remove(graph.node, removed)
    rename_reads(graph, rename)
    for node in graph.node:
        for index, name in enumerate(node.output):
            if rename.get(name) in outputs:
                node.output[index] = rename[name]
    return len(removed)


def _tied_bytes(model: onnx.ModelProto) -> int:
    weights = initializers(model)
    tables = {n.input[0] for n in nodes_of(model, "Gather")} & weights.keys()
    linear = {n.input[1] for n in nodes_of(model, "MatMul")} & weights.keys()
    return sum(
        tensor_bytes(weights[weight])
        for weight in linear
        for table in tables
        if list(weights[weight].dims) == list(reversed(weights[table].dims))
        and np.array_equal(array(weights[weight]).T, array(weights[table]))
    )


def _expand_masks(model: onnx.ModelProto) -> int:
    """Broadcast ``(..., 1, keys)`` masks of Attention nodes to ``(..., queries, keys)``."""
    graph, known, taken = model.graph, shapes(model), taken_names(model.graph)
    nodes: list[onnx.NodeProto] = []
    expanded = 0
    for node in graph.node:
        mask = node.input[3] if node.op_type == "Attention" and len(node.input) > 3 else ""
        if node.domain in ("", "ai.onnx") and mask and known.get(mask, ())[-2:-1] == (1,):
            expanded += 1
            queries, shape, wide, one = (
                fresh_name(f"{node.name}_mask_{part}", taken)
                for part in ("queries", "shape", "expanded", "one")
            )
            graph.initializer.append(numpy_helper.from_array(np.array([1]), one))
            nodes += [
                # The queries are the last axis but one of (batch, queries, width) and of
                # (batch, heads, queries, head_size) alike.
                helper.make_node("Shape", [node.input[0]], [queries], queries, start=-2, end=-1),
                helper.make_node("Concat", [queries, one], [shape], shape, axis=0),
                helper.make_node("Expand", [mask, shape], [wide], wide),
            ]
            node.input[3] = wide
        nodes.append(node)
    if expanded:
        graph.ClearField("node")
        graph.node.extend(nodes)
    return expanded


def _remove_dead_nodes(model: onnx.ModelProto) -> int:
    """Nodes none of whose outputs is read, from the end to the start."""
    graph = model.graph
    needed = {value.name for value in graph.output}
    dead = []
    for node in reversed(graph.node):
        if needed.isdisjoint(node.output):
            dead.append(node)
            continue
        needed.update(node.input)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                for graph_inside in subgraphs(inner):
                    needed.update(name for child in graph_inside.node for name in child.input)
                    needed.update(value.name for value in graph_inside.output)
    remove(graph.node, dead)
    return len(dead)


def _remove_dead_initializers(model: onnx.ModelProto) -> int:
    graph = model.graph
    read = {name for inner in subgraphs(graph) for node in inner.node for name in node.input}
    read |= {value.name for inner in subgraphs(graph) for value in inner.output}
    dead = [tensor for tensor in graph.initializer if tensor.name not in read]
    remove(graph.initializer, dead)
    return len(dead)


def _name_nodes(nodes: Iterable[onnx.NodeProto]) -> None:
    taken: set[str] = set()
    for node in nodes:
        node.name = fresh_name(node.name or node.op_type, taken)
