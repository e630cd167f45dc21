"""An ONNX file that somebody else made, as the model that a recipe starts from."""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import external_data_helper

from compile.artifact import Artifact, Made, Step, Store, file_sha256
from compile.canonical import canonicalise
from compile.errors import InputError, Unsupported
from compile.graph import axes, consumers, count_ops, initializers, load_onnx, save_onnx, tensors
from compile.models.labels import label_names_beside
from compile.models.resolve import Reference
from compile.ort_reason import ort_reason
from compile.parity import LONG, check_parity, onnx_reference, open_session
from compile.signature import Feeds, Signature, TensorSpec

TOLERANCE = 1e-4
"""Largest difference that canonical form may make, relative to an output's largest value."""

CACHE = "past_key_values"
"""How the names of inputs begin that are a decoder's keys and values, in every exporter's files."""

_SAME_VALUES = {"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze"}
"""Operators between an input and the table that it indexes, by which no index is changed."""

_DTYPES = {"int64", "int32", "int8", "uint8", "bool", "float32", "float16", "float64"}


def onnx_source(reference: Reference, store: Store) -> Artifact:
    """The starting artifact of an ONNX file: in canonical form, its external data its own.

    Facts: ``nodes`` by operator, ``canonical`` (what was changed), ``parity`` with the file as it
    came, and ``labels``, where a ``config.json`` beside the file names the classes. Raises
    InputError for a file that is not ONNX, is cut short, is not valid, has operators, opsets or
    types that ONNX Runtime does not know or inputs that are not tensors, or keeps data outside of
    its folder; Unsupported where ONNX Runtime opens it but cannot run it.

    The signature has a ``max_sequence`` where the file is told the positions and has a table of
    them, or where that is shorter than what parity tries.
    """
    path = reference.path
    assert path is not None, "a reference to an ONNX file comes with its path"
    model = load_onnx(path)
    labels = label_names_beside(path)
    parameters = {"family": "onnx", "content": _content_hash(path), "labels": labels}
    step = Step("source", 3, parameters, libraries=("onnx",))
    return store.derive(step, None, lambda folder: _import(model, path, folder, labels))


def _import(model: onnx.ModelProto, path: Path, folder: Path, labels: tuple[str, ...]) -> Made:
    _check(path)
    signature = read_signature(model, path)
    reference = onnx_reference(path, signature)
    signature = replace(signature, max_sequence=_max_sequence(reference, signature))
    changed = canonicalise(model)
    copy = save_onnx(model, folder)
    parity = check_parity(reference, copy, signature, tolerance=TOLERANCE)
    facts: dict[str, Any] = {"nodes": count_ops(model), "canonical": changed, "parity": parity}
    if labels:
        facts["labels"] = labels
    return Made("onnx", signature, facts)


def _max_sequence(
    reference: Callable[[Feeds], list[np.ndarray]], signature: Signature
) -> int | None:
    """The longest text that the file takes; None where texts are not what limits it.

    An input of positions tells it by the table that it indexes. A graph that counts them itself
    does not say how many its tables have: what is shorter than ``LONG`` is found by trying.
    """
    if "sequence" not in signature.axes:
        return None
    tables = [s.high for s in signature.inputs if s.fill == "positions" and s.high is not None]
    told = min(tables, default=None)
    tried = LONG if told is None else min(told, LONG)

    def fails(sequence: int) -> bool:
        sizes = {**dict.fromkeys(signature.axes, 8), "batch": 1, "sequence": sequence, "past": 0}
        try:
            reference(signature.feeds(sizes))
        except Unsupported:
            return True
        return False

    if not tried or not fails(tried):
        return told or None
    return bisect.bisect_left(range(1, tried), True, key=fails) or None


def _check(path: Path) -> None:
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        line = " ".join(str(error).split())[:300]
        raise InputError(f"{path} is not a valid ONNX model: {line}") from error
    try:
        open_session(path)
    except Unsupported as error:
        # Of a valid file, the rest is what its author can mend: operators, opsets and types. This
        # machine's failures (no memory) remain what they are.
        cause = error.__cause__
        if cause is None or type(cause).__name__ == "RuntimeException":
            raise
        raise InputError(
            f"{path} cannot be run by ONNX Runtime on the CPU, with which every build of it is "
            f"compared: {ort_reason(cause)}"
        ) from cause


def read_signature(model: onnx.ModelProto, path: Path) -> Signature:
    """The graph's inputs and outputs, with the axes' names that Assay understands.

    The first axis of an input, where it is dynamic, is the batch. The second dynamic axis of a
    rank-2 integer input is the sequence; beside a key/value cache a mask's is the total. Other
    dynamic axes keep their names. An integer input that indexes a table takes values below the
    table's length; one of positions counts.
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
        return TensorSpec(value.name, dtype, shape, limits.get(value.name), _fill(value))

    return Signature(
        tuple(spec(value, "input") for value in inputs),
        tuple(spec(value, "output") for value in model.graph.output),
    )


def _axis_names(inputs: list[onnx.ValueInfoProto]) -> dict[str, str]:
    """The file's name of an axis -> ours, for the batch, the sequence, the past and the total.

    What is fed comes before what is masked: a mask as long as its tokens has their axis.
    """
    names: dict[str, str] = {}
    caches = [value for value in inputs if value.name.startswith(CACHE)]
    for value in caches:
        names |= {axis: "past" for axis in axes(value)[1:] if isinstance(axis, str)}
    inputs = sorted(inputs, key=_is_mask)
    for value in inputs:
        shape = axes(value)
        if shape and isinstance(shape[0], str):
            names.setdefault(shape[0], "batch")
        if _is_integer(value) and len(shape) == 2 and isinstance(shape[1], str):
            names.setdefault(shape[1], "total" if caches and _is_mask(value) else "sequence")
    return names


def _is_mask(value: onnx.ValueInfoProto) -> bool:
    return "mask" in value.name


def _fill(value: onnx.ValueInfoProto) -> str:
    """How an input is made where there are no data (``TensorSpec.fill``), told by its name."""
    if _is_mask(value):
        return "ones"
    if "type" in value.name:
        return "zeros"
    # By random ones no text is ever too long, and a decoder's next token stands anywhere.
    if "position" in value.name and _is_integer(value) and len(axes(value)) in (1, 2):
        return "positions"
    return "random"


def _is_integer(value: onnx.ValueInfoProto) -> bool:
    integers = (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
    return value.type.tensor_type.elem_type in integers


def _index_limits(model: onnx.ModelProto) -> dict[str, int]:
    """Input name -> rows of the smallest table that it indexes."""
    tables, readers = initializers(model), consumers(model)
    limits: dict[str, int] = {}
    for value in model.graph.input:
        reached = [value.name]
        for name in reached:
            for node in readers.get(name, ()):
                if node.op_type in _SAME_VALUES and node.input[0] == name:
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
