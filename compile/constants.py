"""Constants of an ONNX graph as initializers, whatever stands between them and their readers.

Exporters keep a weight in half precision behind a Cast, in another shape behind a Reshape, or
turned round behind a Transpose. A pass that looks for initializers would not see that layer.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compile.edit import remove, rename_reads
from compile.graph import array, fresh_name, initializers, subgraphs, taken_names

_WIDER = {
    TensorProto.FLOAT16: (TensorProto.FLOAT, TensorProto.DOUBLE),
    TensorProto.BFLOAT16: (TensorProto.FLOAT, TensorProto.DOUBLE),
    TensorProto.FLOAT: (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE),
    TensorProto.DOUBLE: (TensorProto.FLOAT,),
}
"""Casts between floating types that NumPy rounds as ONNX Runtime does. A cast of integers stays:
those are codes, kept small on purpose, and a file with them unpacked would be four times as big."""


def lift_constants(model: onnx.ModelProto) -> int:
    """Constant nodes to initializers; and initializers that are inputs too to initializers.

    Returns the number of nodes lifted.
    """
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
    remove(graph.node, lifted)
    own = {tensor.name for tensor in graph.initializer}
    remove(graph.input, [value for value in graph.input if value.name in own])
    return len(lifted)


def fold_constants(model: onnx.ModelProto) -> int:
    """Cast, Reshape, Squeeze, Unsqueeze, Transpose and Identity of initializers to initializers.

    Each leaves as many elements as it takes, so nothing folded is larger than the weight that
    its reader reads anyway. Nodes that do the same to the same initializer share the result, and
    of a chain only what is read is kept. A node that feeds an output of the graph stays. Returns
    the number of nodes folded; sources that nothing reads any more are left for the caller.
    """
    graph = model.graph
    tensors, outputs = initializers(model), {value.name for value in graph.output}
    taken = taken_names(graph)
    values: dict[str, np.ndarray] = {}
    names: dict[tuple[str, bytes], str] = {}
    rename: dict[str, str] = {}
    folded = []

    def known(name: str) -> np.ndarray | None:
        if name in values:
            return values[name]
        return array(tensors[name]) if name in tensors else None

    for node in graph.node:
        fold = _FOLDS.get(node.op_type)
        if fold is None or node.domain not in ("", "ai.onnx") or node.output[0] in outputs:
            continue
        source, *others = (rename.get(name, name) for name in node.input)
        if (data := known(source)) is None:
            continue
        arguments = [known(name) if name else None for name in others]
        if any(name and argument is None for name, argument in zip(others, arguments, strict=True)):
            continue
        # The node without its names, but with those of what it reads.
        bare = onnx.NodeProto(op_type=node.op_type, input=others, attribute=node.attribute)
        expression = (source, bare.SerializeToString(deterministic=True))
        if expression not in names:
            options = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            result = fold(data, arguments[0] if arguments else None, options)
            if result is None:
                continue
            name = fresh_name(f"{source}.{_SUFFIX.get(node.op_type, 'reshaped')}", taken)
            names[expression], values[name] = name, result
        rename[node.output[0]] = names[expression]
        folded.append(node)
    remove(graph.node, folded)
    rename_reads(graph, rename)
    read = {name for inner in subgraphs(graph) for node in inner.node for name in node.input}
    read |= {value.name for inner in subgraphs(graph) for value in inner.output}
    for name, result in values.items():
        if name in read:
            kept = np.ascontiguousarray(result).reshape(result.shape)
            graph.initializer.append(numpy_helper.from_array(kept, name))
    return len(folded)


_Fold = Callable[[np.ndarray, np.ndarray | None, dict], np.ndarray | None]
"""(data, the second input, attributes) -> the result, or None where it stays a node."""


def _cast(data: np.ndarray, _: np.ndarray | None, options: dict) -> np.ndarray | None:
    source, target = helper.np_dtype_to_tensor_dtype(data.dtype), options["to"]
    if target != source and target not in _WIDER.get(source, ()):
        return None
    with np.errstate(over="ignore"):  # beyond half precision lies infinity, here as there
        return data.astype(helper.tensor_dtype_to_np_dtype(target))


def _reshape(data: np.ndarray, shape: np.ndarray | None, options: dict) -> np.ndarray | None:
    if shape is None:  # an attribute before opset 5
        return None
    sizes = shape.tolist()
    if not options.get("allowzero"):
        sizes = [data.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return data.reshape(sizes)


def _squeeze(data: np.ndarray, axes: np.ndarray | None, options: dict) -> np.ndarray:
    chosen = options.get("axes") if axes is None else axes.tolist()
    return data.squeeze(None if chosen is None else tuple(chosen))


def _unsqueeze(data: np.ndarray, axes: np.ndarray | None, options: dict) -> np.ndarray:
    return np.expand_dims(data, tuple(options["axes"] if axes is None else axes.tolist()))


def _transpose(data: np.ndarray, _: np.ndarray | None, options: dict) -> np.ndarray:
    return data.transpose(options.get("perm"))


def _identity(data: np.ndarray, _: np.ndarray | None, __: dict) -> np.ndarray:
    return data


_FOLDS: dict[str, _Fold] = {
    "Cast": _cast,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Identity": _identity,
}
_SUFFIX = {"Cast": "cast", "Transpose": "transposed"}
