"""An ONNX file that somebody else made, as the model that a recipe starts from."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
from onnx import external_data_helper

from compile.artifact import Artifact, Made, Step, Store, file_sha256
from compile.canonical import canonicalise
from compile.errors import InputError
from compile.graph import axes, consumers, count_ops, initializers, load_onnx, save_onnx, tensors
from compile.models.resolve import Reference
from compile.parity import check_parity, onnx_reference, open_session
from compile.signature import Signature, TensorSpec

TOLERANCE = 1e-4
"""Largest difference that canonical form may make, relative to an output's largest value."""

_DTYPES = {"int64", "int32", "int8", "uint8", "bool", "float32", "float16", "float64"}


def onnx_source(reference: Reference, store: Store) -> Artifact:
    """The starting artifact of an ONNX file: in canonical form, its external data its own.

    Facts: ``nodes`` by operator, ``canonical`` (what was changed) and ``parity`` with the file as
    it came. Raises InputError for a file that is not ONNX, is cut short, is not valid, has
    operators that ONNX does not define or inputs that are not tensors, or keeps data outside of
    its folder; Unsupported where ONNX Runtime cannot run it.
    """
    path = reference.path
    assert path is not None, "a reference to an ONNX file comes with its path"
    model = load_onnx(path)
    parameters = {"family": "onnx", "content": _content_hash(path)}
    step = Step("source", 1, parameters, libraries=("onnx",))
    return store.derive(step, None, lambda folder: _import(model, path, folder))


def _import(model: onnx.ModelProto, path: Path, folder: Path) -> Made:
    _check(path)
    signature = read_signature(model, path)
    reference = onnx_reference(path, signature)
    changed = canonicalise(model)
    copy = save_onnx(model, folder)
    parity = check_parity(reference, copy, signature, tolerance=TOLERANCE)
    facts = {"nodes": count_ops(model), "canonical": changed, "parity": parity}
    return Made("onnx", signature, facts)


def _check(path: Path) -> None:
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        line = " ".join(str(error).split())[:300]
        raise InputError(f"{path} is not a valid ONNX model: {line}") from error
    open_session(path)


def read_signature(model: onnx.ModelProto, path: Path) -> Signature:
    """The graph's inputs and outputs, with the axes' names that Assay understands.

    The first axis of an input, where it is dynamic, is the batch. The second dynamic axis of a
    rank-2 integer input is the sequence. Other dynamic axes keep their names. An integer input
    that indexes a table takes values below the table's length.
    """
    fixed = initializers(model)
    inputs = [value for value in model.graph.input if value.name not in fixed]
    names = _axis_names(inputs)
    limits = _index_limits(model)

    def spec(value: onnx.ValueInfoProto, role: str) -> TensorSpec:
        kind = value.type.tensor_type
        if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
            raise InputError(f"{path}: {role} {value.name!r} is not a tensor of known rank")
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
        if dtype not in _DTYPES:
            raise InputError(
                f"{path}: {role} {value.name!r} has type {dtype}, which is not handled"
            )
        shape = tuple(
            axis
            if isinstance(axis, int)
            else names.get(axis or "", axis or f"{value.name}_{place}")
            for place, axis in enumerate(axes(value))
        )
        if role == "input" and shape and not isinstance(axes(value)[0], int):
            shape = ("batch", *shape[1:])
        if (
            role == "input"
            and dtype.startswith("int")
            and len(shape) == 2
            and axes(value)[1] is None
        ):
            shape = (shape[0], "sequence")
        if role == "output":
            return TensorSpec(value.name, dtype, shape)
        fill = "ones" if "mask" in value.name else "zeros" if "type" in value.name else "random"
        return TensorSpec(value.name, dtype, shape, limits.get(value.name), fill)

    return Signature(
        tuple(spec(value, "input") for value in inputs),
        tuple(spec(value, "output") for value in model.graph.output),
    )


def _axis_names(inputs: list[onnx.ValueInfoProto]) -> dict[str, str]:
    """The file's name of an axis -> ours, for the batch and the sequence."""
    names: dict[str, str] = {}
    for value in inputs:
        shape = axes(value)
        if shape and isinstance(shape[0], str):
            names.setdefault(shape[0], "batch")
        integer = value.type.tensor_type.elem_type in (
            onnx.TensorProto.INT64,
            onnx.TensorProto.INT32,
        )
        if integer and len(shape) == 2 and isinstance(shape[1], str):
            names.setdefault(shape[1], "sequence")
    return names


def _index_limits(model: onnx.ModelProto) -> dict[str, int]:
    """Input name -> rows of the smallest table that it indexes."""
    tables, readers = initializers(model), consumers(model)
    limits: dict[str, int] = {}
    for value in model.graph.input:
        reached = [value.name]
        for name in reached:
            for node in readers.get(name, ()):
                if node.op_type == "Cast":
                    reached.append(node.output[0])
                is_index = node.op_type == "Gather" and node.input[1] == name
                if is_index and node.input[0] in tables:
                    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
                    rows = tables[node.input[0]].dims[axis]
                    limits[value.name] = min(rows, limits.get(value.name, rows))
    return limits


def _content_hash(path: Path) -> str:
    """Of the file and of the external files that it names."""
    light = onnx.load_model(str(path), load_external_data=False)
    names = {
        external_data_helper.ExternalDataInfo(tensor).location
        for tensor in tensors(light)
        if external_data_helper.uses_external_data(tensor)
    }
    digest = hashlib.sha256(file_sha256(path).encode())
    for name in sorted(names):
        digest.update(file_sha256(path.parent / name).encode())
    return digest.hexdigest()
