"""One canonical form for all ONNX graphs, so that every pass meets the same few patterns.

- weights are initializers: no Constant nodes, no initializer doubles as an overridable input;
- every linear layer is MatMul with an untransposed ``(in, out)`` weight, then Add: the 4-bit
  quantizers skip Gemm, and a Transpose in front of a weight hides it from all of them;
- no Identity, no node or initializer that nothing reads;
- every node has a name of its own.

The values computed stay the same; ``compile.parity`` holds every caller to that.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from compile.graph import (
    array,
    consumers,
    infer_shapes,
    initializers,
    nodes_of,
    subgraphs,
    tensor_bytes,
)


def canonicalise(model: onnx.ModelProto) -> dict[str, int]:
    """Bring the model into canonical form, in place, and infer its shapes again.

    Returns what was done: ``gemm_split``, ``identity_removed``, ``transposes_folded``,
    ``constants_lifted``, ``nodes_removed``, ``initializers_removed``, and ``tied_bytes``: the
    bytes of the weights that are kept twice, as an embedding and transposed as a linear layer.
    """
    done = {
        "constants_lifted": _lift_constants(model),
        "identity_removed": _remove_identities(model),
        "gemm_split": _split_gemms(model),
    }
    done["transposes_folded"] = _fold_transposes(model)
    done["nodes_removed"] = _remove_dead_nodes(model)
    done["initializers_removed"] = _remove_dead_initializers(model)
    done["tied_bytes"] = _tied_bytes(model)
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


def _split_gemms(model: onnx.ModelProto) -> int:
    """Gemm(A, B, C) = alpha A' B' + beta C, as Transpose, MatMul, Mul and Add where needed."""
    graph = model.graph
    weights = initializers(model)
    taken = _names(graph)
    nodes: list[onnx.NodeProto] = []
    split = 0
    for node in graph.node:
        if node.op_type != "Gemm" or node.domain not in ("", "ai.onnx"):
            nodes.append(node)
            continue
        split += 1
        options = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        alpha, beta = options.get("alpha", 1.0), options.get("beta", 1.0)
        left, right, *bias = node.input
        steps: list[onnx.NodeProto] = []

        def add(
            op: str, inputs: list[str], base: str = node.name or "gemm", **settings: Any
        ) -> str:
            name = _fresh(f"{base}_{op.lower()}", taken)
            steps.append(helper.make_node(op, inputs, [name], name, **settings))  # noqa: B023
            return name

        def scale(value: str, factor: float) -> str:
            """``value * factor``, in a new initializer where ``value`` is one."""
            known = weights.get(value)
            kind = array(known).dtype if known is not None else np.dtype(np.float32)
            name = _fresh(f"{value}_scaled", taken)
            if known is not None:
                scaled = (array(known).astype(np.float64) * factor).astype(kind)
                graph.initializer.append(numpy_helper.from_array(scaled, name))
                weights[name] = graph.initializer[-1]
                return name
            factor_name = _fresh(f"{value}_factor", taken)
            graph.initializer.append(
                numpy_helper.from_array(np.asarray(factor, np.float32), factor_name)
            )
            return add("Mul", [value, add("CastLike", [factor_name, value])])

        if options.get("transA"):
            left = add("Transpose", [left], perm=[1, 0])
        if options.get("transB"):
            right = add("Transpose", [right], perm=[1, 0])
        product = add("MatMul", [left, right])
        if alpha != 1.0:
            product = scale(product, alpha)
        if bias and bias[0] and beta != 0.0:
            add("Add", [product, bias[0] if beta == 1.0 else scale(bias[0], beta)])
        steps[-1].output[0] = node.output[0]
        for step in steps:
            step.metadata_props.extend(node.metadata_props)
        nodes.extend(steps)
    graph.ClearField("node")
    graph.node.extend(nodes)
    return split


def _fold_transposes(model: onnx.ModelProto) -> int:
    """Transpose of an initializer to an initializer."""
    graph = model.graph
    weights, taken = initializers(model), _names(graph)
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
            name = _fresh(f"{source}.transposed", taken)
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
        node.name = _fresh(node.name or node.op_type, taken)


def _fresh(name: str, taken: set[str]) -> str:
    """``name``, with a number behind it if it is taken; taken from now on."""
    candidate, number = name, 1
    while candidate in taken:
        candidate, number = f"{name}_{number}", number + 1
    taken.add(candidate)
    return candidate


def _names(graph: onnx.GraphProto) -> set[str]:
    found = {tensor.name for tensor in graph.initializer}
    for inner in subgraphs(graph):
        found.update(value.name for value in (*inner.input, *inner.initializer))
        found.update(name for node in inner.node for name in (node.name, *node.output))
    return found


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
