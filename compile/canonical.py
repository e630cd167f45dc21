"""One canonical form for all ONNX graphs, so that every pass meets the same few patterns.

- weights are initializers: no Constant nodes, no initializer doubles as an overridable input;
- every linear layer is MatMul with an untransposed ``(in, out)`` weight, then Add: the 4-bit
  quantizers skip Gemm, and a Transpose in front of a weight hides it from all of them;
- an attention mask has its query axis written out: ONNX lets it be broadcast, ONNX Runtime's
  Attention refuses that;
- no Identity, no node or initializer that nothing reads;
- every node has a name of its own.

The values computed stay the same; ``compile.parity`` holds every caller to that.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import helper, numpy_helper

from compile.gemm import split_gemms
from compile.graph import (
    array,
    consumers,
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

    Returns what was done: ``gemm_split``, ``identity_removed``, ``transposes_folded``,
    ``constants_lifted``, ``nodes_removed``, ``initializers_removed``, ``masks_expanded``, and
    ``tied_bytes``: the bytes of the weights that are kept twice, as an embedding and transposed
    as a linear layer.
    """
    done = {
        "constants_lifted": _lift_constants(model),
        "identity_removed": _remove_identities(model),
        "gemm_split": split_gemms(model),
    }
    done["transposes_folded"] = _fold_transposes(model)
    done["nodes_removed"] = _remove_dead_nodes(model)
    done["initializers_removed"] = _remove_dead_initializers(model)
    done["tied_bytes"] = _tied_bytes(model)
    infer_shapes(model)
    done["masks_expanded"] = _expand_masks(model)
    _name_nodes(model.graph.node)
    infer_shapes(model)
    return done


def _lift_constants(model: onnx.ModelProto) -> int:
    """Constant nodes to initializers; and initializers that are inputs too to initializers."""
    graph, lifted = model.graph, []
    for node in graph.node:
        if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
            continue
        attribute = node.attribute[0]
        value = helper.get_attribute_value(attribute)
        if attribute.name == "value":
            tensor = onnx.TensorProto()
            tensor.CopyFrom(value)
        elif attribute.name in ("value_float", "value_floats"):
            tensor = numpy_helper.from_array(np.asarray(value, np.float32))
        elif attribute.name in ("value_int", "value_ints"):
            tensor = numpy_helper.from_array(np.asarray(value, np.int64))
        else:  # strings and sparse tensors: nothing here works on them
            continue
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
        lifted.append(node)
    _remove(graph.node, lifted)
    own = {tensor.name for tensor in graph.initializer}
    _remove(graph.input, [value for value in graph.input if value.name in own])
    return len(lifted)


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
    _remove(graph.node, removed)
    for inner in subgraphs(graph):
        for node in inner.node:
            for index, name in enumerate(node.input):
                if name in rename:
                    node.input[index] = rename[name]
        if inner is not graph:
            for value in inner.output:
                value.name = rename.get(value.name, value.name)
    for node in graph.node:
        for index, name in enumerate(node.output):
            if rename.get(name) in outputs:
                node.output[index] = rename[name]
    return len(removed)


def _fold_transposes(model: onnx.ModelProto) -> int:
    """Transpose of an initializer to an initializer."""
    graph = model.graph
    weights, taken = initializers(model), taken_names(graph)
    outputs = {value.name for value in graph.output}
    readers = consumers(model)
    folded: dict[tuple[str, tuple[int, ...]], str] = {}
    removed, rename = [], {}
    for node in graph.node:
        if node.op_type != "Transpose" or node.output[0] in outputs:
            continue
        source = node.input[0]
        if source not in weights or _read_inside(graph, node.output[0]):
            continue
        tensor = weights[source]
        order = next((tuple(a.ints) for a in node.attribute if a.name == "perm"), None)
        order = order or tuple(reversed(range(len(tensor.dims))))
        if (source, order) not in folded:
            name = fresh_name(f"{source}.transposed", taken)
            values = np.ascontiguousarray(array(tensor).transpose(order))
            graph.initializer.append(numpy_helper.from_array(values, name))
            folded[source, order] = name
        rename[node.output[0]] = folded[source, order]
        removed.append(node)
    for name in rename:
        for reader in readers.get(name, ()):
            for index, value in enumerate(reader.input):
                if value == name:
                    reader.input[index] = rename[name]
    _remove(graph.node, removed)
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
    _remove(graph.node, dead)
    return len(dead)


def _remove_dead_initializers(model: onnx.ModelProto) -> int:
    graph = model.graph
    read = {name for inner in subgraphs(graph) for node in inner.node for name in node.input}
    read |= {value.name for inner in subgraphs(graph) for value in inner.output}
    dead = [tensor for tensor in graph.initializer if tensor.name not in read]
    _remove(graph.initializer, dead)
    return len(dead)


def _name_nodes(nodes: Iterable[onnx.NodeProto]) -> None:
    taken: set[str] = set()
    for node in nodes:
        node.name = fresh_name(node.name or node.op_type, taken)


def _read_inside(graph: onnx.GraphProto, name: str) -> bool:
    """Whether a branch or a loop body reads the value."""
    return any(
        name in node.input or any(value.name == name for value in inner.output)
        for inner in subgraphs(graph)
        if inner is not graph
        for node in inner.node
    )


def _remove(repeated: object, items: list) -> None:
    """Remove these very messages (not equal ones) from a repeated field, in one pass."""
    gone = {id(item) for item in items}
    if not gone:
        return
    # A repeated field gives a new wrapper for each access only after the last one died; the
    # list in ``items`` keeps them alive, so identity holds.
    for index in range(len(repeated) - 1, -1, -1):  # type: ignore[arg-type]
        if id(repeated[index]) in gone:  # type: ignore[index]
            del repeated[index]  # type: ignore[attr-defined]
