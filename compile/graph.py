"""ONNX graphs on disk and in memory: loading, saving, and the questions that passes ask of them.

An ONNX artifact is ``model.onnx``, with ``model.onnx.data`` beside it where its tensors are
large. Nothing in it may point outside of its folder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import external_data_helper, numpy_helper

from compile.errors import InputError

MODEL = "model.onnx"
DATA = "model.onnx.data"
EXTERNAL_LIMIT = 64 * 2**20
"""Bytes of initializers from which they are kept in their own file. Runtimes map that file
instead of copying it, and a file with everything inside may not reach 2 GiB."""
EXTERNAL_TENSOR = 1024
"""A smaller tensor stays in ``model.onnx``: shape inference reads it there."""


# Files


def load_onnx(path: Path) -> onnx.ModelProto:
    """Read ``path``, a model or a folder with ``model.onnx``, external data included.

    Raises InputError for a file that is no ONNX model or is cut short, and for external data
    that is missing, too short, or outside of the model's folder (absolute, ``..``, a link).
    """
    path = path / MODEL if path.is_dir() else path
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except DecodeError as error:
        raise InputError(f"{path} is not an ONNX file, or it is cut short") from error
    if not model.ir_version or not model.graph.output:
        raise InputError(f"{path} is not an ONNX model: it has no graph")
    for tensor in tensors(model):
        if external_data_helper.uses_external_data(tensor):
            _check_external(tensor, path)
    try:
        external_data_helper.load_external_data_for_model(model, str(path.parent))
    except onnx.checker.ValidationError as error:
        raise InputError(f"{path}: its external data is refused: {error}") from error
    # Nobody trains it here, and its tensors would have to be looked after like all others.
    del model.training_info[:]
    return model


def save_onnx(model: onnx.ModelProto, folder: Path, *, limit: int = EXTERNAL_LIMIT) -> Path:
    """Write ``model.onnx`` into ``folder``, and ``model.onnx.data`` if ``needs_external``.

    The model in memory is left as it was. Returns the path of ``model.onnx``.
    """
    path = folder / MODEL
    if not needs_external(model, limit):
        path.write_bytes(model.SerializeToString(deterministic=True))
        return path
    light = without_data(model, EXTERNAL_TENSOR)
    with (folder / DATA).open("wb") as data:
        for tensor, full in zip(tensors(light), tensors(model), strict=True):
            if not external_data_helper.uses_external_data(tensor):
                continue
            # Aligned to a page, as ONNX advises, so that the file can be mapped.
            data.seek(-data.tell() % 4096, 1)
            content = _raw(full)
            offset, length = data.tell(), data.write(content)
            entries = {"location": DATA, "offset": str(offset), "length": str(length)}
            for key, value in entries.items():
                tensor.external_data.add(key=key, value=value)
    path.write_bytes(light.SerializeToString(deterministic=True))
    return path


def needs_external(model: onnx.ModelProto, limit: int = EXTERNAL_LIMIT) -> bool:
    """Whether the tensors together take ``limit`` bytes or more."""
    return sum(tensor_bytes(tensor) for tensor in tensors(model)) >= limit


def without_data(model: onnx.ModelProto, size: int) -> onnx.ModelProto:
    """A copy in which tensors of ``size`` bytes or more are external, and their data left out.

    It is small whatever the size of the model, so it can be serialised.
    """
    light = onnx.ModelProto()
    graph = model.graph
    for field, value in model.ListFields():
        if field.name != "graph":
            _assign(light, field, value)
    for field, value in graph.ListFields():
        if field.name != "initializer":
            _assign(light.graph, field, value)
    for tensor in graph.initializer:
        if tensor_bytes(tensor) < size or tensor.data_type == onnx.TensorProto.STRING:
            light.graph.initializer.append(tensor)
            continue
        stub = light.graph.initializer.add(
            name=tensor.name, data_type=tensor.data_type, dims=tensor.dims
        )
        stub.data_location = onnx.TensorProto.EXTERNAL
    return light


def _assign(message: onnx.ModelProto | onnx.GraphProto, field: object, value: object) -> None:
    name = field.name  # type: ignore[attr-defined]
    if isinstance(value, str | int | float | bytes):
        setattr(message, name, value)
    elif hasattr(value, "CopyFrom"):
        getattr(message, name).CopyFrom(value)
    else:
        getattr(message, name).extend(value)


def _raw(tensor: onnx.TensorProto) -> bytes:
    if tensor.HasField("raw_data"):
        return tensor.raw_data
    return numpy_helper.from_array(numpy_helper.to_array(tensor)).raw_data


def _check_external(tensor: onnx.TensorProto, path: Path) -> None:
    info = external_data_helper.ExternalDataInfo(tensor)
    name = info.location
    outside = (
        not name
        or PurePosixPath(name).is_absolute()
        or PureWindowsPath(name).anchor
        or ".." in PureWindowsPath(name).parts
    )
    file = path.parent / name
    if not outside:
        # A link on the way would lead outside without saying so.
        real = path.parent.resolve() / name
        outside = real.resolve() != real
    if outside:
        raise InputError(
            f"{path}: tensor {tensor.name!r} keeps its data in {name!r}, outside of the model's "
            "folder; refused"
        )
    if not file.is_file():
        raise InputError(f"{path}: its external data {name!r} is missing from {path.parent}")
    offset, size = info.offset or 0, file.stat().st_size
    length = info.length if info.length is not None else size - offset
    if offset < 0 or length < 0 or offset + length > size or length < tensor_bytes(tensor):
        raise InputError(f"{path}: its external data {name!r} is too short for {tensor.name!r}")


# Questions


def subgraphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and every graph inside of its nodes (branches and loop bodies)."""
    yield graph
    yield from _graphs_in(graph.node)


def _graphs_in(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    for node in nodes:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node or inner.output:
                    yield from subgraphs(inner)


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of the model, of its functions and of what it would be trained by:
    initializers first, then those in attributes."""
    graphs = [*subgraphs(model.graph)]
    for part in model.training_info:
        graphs += [*subgraphs(part.initialization), *subgraphs(part.algorithm)]
    for function in model.functions:
        graphs += _graphs_in(function.node)
    for graph in graphs:
        yield from graph.initializer
    nodes = [node for graph in graphs for node in graph.node]
    nodes += [node for function in model.functions for node in function.node]
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def tensor_bytes(tensor: onnx.TensorProto) -> int:
    """Bytes that the tensor's elements take, wherever they are kept (4-bit types are packed)."""
    if tensor.data_type == onnx.TensorProto.STRING:
        return sum(map(len, tensor.string_data))
    elements = int(np.prod(tensor.dims, dtype=np.int64))
    name = onnx.TensorProto.DataType.Name(tensor.data_type)
    if name.endswith(("INT4", "FLOAT4E2M1")):
        return (elements + 1) // 2
    if name.endswith("INT2"):
        return (elements + 3) // 4
    return elements * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def initializers(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """The main graph's initializers by name."""
    return {tensor.name: tensor for tensor in model.graph.initializer}


def array(tensor: onnx.TensorProto) -> np.ndarray:
    """The tensor's values; bfloat16 and the 8- and 4-bit types as ``ml_dtypes``."""
    return numpy_helper.to_array(tensor)


def nodes_of(model: onnx.ModelProto, *op_types: str) -> list[onnx.NodeProto]:
    """The main graph's nodes of these operator types, in graph order."""
    return [node for node in model.graph.node if node.op_type in op_types]


def count_ops(model: onnx.ModelProto) -> dict[str, int]:
    """Operator type -> number of nodes, inner graphs included, the most frequent first."""
    return dict(
        Counter(node.op_type for g in subgraphs(model.graph) for node in g.node).most_common()
    )


def producers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """Value name -> the main graph's node that computes it."""
    return {name: node for node in model.graph.node for name in node.output if name}


def consumers(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """Value name -> the main graph's nodes that read it.

    A node with branches or a loop body reads what its inner graphs read. A graph output is read
    by nobody: see ``model.graph.output``.
    """
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in dict.fromkeys(_reads(node)):
            found.setdefault(name, []).append(node)
    return found


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    yield from filter(None, node.input)
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            for child in inner.node:
                yield from _reads(child)
            for output in inner.output:
                yield output.name


def opset(model: onnx.ModelProto) -> int:
    """Version of the standard operators that the model is written in."""
    return next((i.version for i in model.opset_import if i.domain in ("", "ai.onnx")), 0)


# Names


def taken_names(graph: onnx.GraphProto) -> set[str]:
    """Names of all values and nodes, inner graphs included."""
    found: set[str] = set()
    for inner in subgraphs(graph):
        found.update(value.name for value in (*inner.input, *inner.initializer))
        found.update(name for node in inner.node for name in (node.name, *node.output))
    return found


def fresh_name(name: str, taken: set[str]) -> str:
    """``name``, with a number behind it if it is taken; taken from now on."""
    candidate, number = name, 1
    while candidate in taken:
        candidate, number = f"{name}_{number}", number + 1
    taken.add(candidate)
    return candidate


# Shapes


def infer_shapes(model: onnx.ModelProto) -> None:
    """Replace ``value_info`` by what ONNX's shape inference finds; of any size, in place."""
    light = without_data(model, EXTERNAL_TENSOR)
    light.graph.ClearField("value_info")
    inferred = onnx.shape_inference.infer_shapes(light, data_prop=True)
    model.graph.ClearField("value_info")
    model.graph.value_info.extend(inferred.graph.value_info)


def shapes(model: onnx.ModelProto) -> dict[str, tuple[int | str | None, ...]]:
    """Value name -> its axes (size, symbolic name or None), for all values with a known rank."""
    graph, found = model.graph, {}
    for info in (*graph.input, *graph.output, *graph.value_info):
        if info.type.tensor_type.HasField("shape"):
            found[info.name] = axes(info)
    return found | {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}


def axes(info: onnx.ValueInfoProto) -> tuple[int | str | None, ...]:
    """One value's axes: a size, a symbolic name, or None where nothing is known."""
    return tuple(
        axis.dim_value if axis.HasField("dim_value") else axis.dim_param or None
        for axis in info.type.tensor_type.shape.dim
    )
