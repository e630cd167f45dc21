"""Whether a graph computes what its original computes, on the shapes where exports go wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from compile.errors import Incorrect, Unsupported
from compile.ort_reason import ort_reason
from compile.signature import Feeds, Signature, TensorSpec

LONG = 128
"""Tokens of the longest shape tried, where the model allows that many."""


@dataclass(frozen=True)
class ShapeParity:
    """The largest error at one shape, over all outputs and unpadded positions."""

    sizes: Mapping[str, int]
    padded: bool
    absolute: float
    """max |output - reference|."""
    relative: float
    """The same over max |reference|, for the output where it is largest."""


def check_parity(
    reference: Callable[[Feeds], list[np.ndarray]],
    path: Path,
    signature: Signature,
    *,
    tolerance: float,
    examples: Feeds | None = None,
) -> list[dict[str, Any]]:
    """Compare the ONNX file ``path`` in ONNX Runtime with ``reference``, shape by shape.

    An output is right where |output - reference| <= tolerance * max(1, max |reference|), the
    maximum being that output's. Returns ``ShapeParity`` as JSON, one for each shape. Raises
    Incorrect with the numbers at the first shape that is not right or where the reference itself
    is not finite, and Unsupported where ONNX Runtime cannot run the graph.
    """
    session = open_session(path)
    names = [spec.name for spec in signature.outputs]
    found = []
    for sizes, feeds in parity_feeds(signature, examples):
        expected = reference(feeds)
        try:
            got = session.run(names, feeds)
        except _ORT_ERRORS as error:
            raise Incorrect(f"{path.name} fails at {_text(sizes)}: {ort_reason(error)}") from error
        kept = feeds.get("attention_mask")
        padded = kept is not None and bool((kept == 0).any())
        absolute = relative = 0.0
        for spec, want, have in zip(signature.outputs, expected, got, strict=True):
            worst, scale = _largest(spec, want, have, kept)
            if not math.isfinite(scale):
                raise Incorrect(
                    f"the model's own output {spec.name!r} is not finite at {_text(sizes)}, so "
                    "that nothing can be held against it"
                )
            if not worst <= tolerance * max(1.0, scale):
                raise Incorrect(
                    f"output {spec.name!r} differs by {worst:.3g} (values up to {scale:.3g}) at "
                    f"{_text(sizes)}, tolerance {tolerance:g}"
                )
            absolute = max(absolute, worst)
            relative = max(relative, worst / scale if scale else 0.0)
        found.append(asdict(ShapeParity(sizes, padded, absolute, relative)))
    return found


def onnx_reference(path: Path, signature: Signature) -> Callable[[Feeds], list[np.ndarray]]:
    """The ONNX file ``path`` as a reference, run as it is written, without optimisations.

    A call raises Unsupported where ONNX Runtime fails on its feeds.
    """
    session = open_session(path, level=onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL)
    names = [spec.name for spec in signature.outputs]

    def reference(feeds: Feeds) -> list[np.ndarray]:
        try:
            return session.run(names, feeds)
        except _ORT_ERRORS as error:
            shapes = {name: array.shape for name, array in feeds.items()}
            raise Unsupported(
                f"{path.name} fails on {_text(shapes)}: {ort_reason(error)}"
            ) from error

    return reference


def open_session(
    path: Path,
    *,
    level: onnxruntime.GraphOptimizationLevel = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    optimised: Path | None = None,
    optimised_data: str = "",
) -> onnxruntime.InferenceSession:
    """A quiet CPU session; its optimised graph is written to ``optimised`` if given, the large
    tensors beside it in ``optimised_data``.

    Raises Unsupported for a graph that ONNX Runtime cannot open, with its reason.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = level
    # Idle threads that spin would take their core from whatever else runs here.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", optimised_data
        )
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except _ORT_ERRORS as error:
        raise Unsupported(f"ONNX Runtime cannot open {path.name}: {ort_reason(error)}") from error


def parity_feeds(
    signature: Signature, examples: Feeds | None = None
) -> Iterator[tuple[dict[str, int], Feeds]]:
    """Feeds for batch 1 and 3; one, a few, an odd number of and many tokens; no past and some.

    Batches are padded where there is an ``attention_mask``: on the right for encoders, on the
    left for decoders. A user's examples are repeated or cut to the size, never made longer than
    they are but for the batch; without examples the values are synthetic.
    """
    for sizes in _sizes(signature, examples):
        if examples is None:
            feeds = signature.feeds(sizes, seed=sum(sizes.values()))
        else:
            feeds = {
                spec.name: resize(examples[spec.name], spec, sizes) for spec in signature.inputs
            }
        if "attention_mask" in feeds and examples is None:
            _pad(feeds["attention_mask"], left="past" in signature.axes)
        yield sizes, feeds


def resize(example: np.ndarray, spec: TensorSpec, sizes: Mapping[str, int]) -> np.ndarray:
    """An example brought to the sizes of its named axes, its values repeated from the start."""
    for axis, name in enumerate(spec.shape):
        if isinstance(name, str):
            example = np.take(example, np.arange(sizes[name]) % example.shape[axis], axis)
    # NumPy would give a contiguous scalar an axis.
    return np.ascontiguousarray(example) if example.ndim else example


def example_sizes(signature: Signature, examples: Feeds) -> dict[str, int]:
    """The size that each named axis has in the examples."""
    return {
        name: examples[spec.name].shape[axis]
        for spec in signature.inputs
        for axis, name in enumerate(spec.shape)
        if isinstance(name, str)
    }


def _sizes(signature: Signature, examples: Feeds | None) -> list[dict[str, int]]:
    names = signature.axes
    base = example_sizes(signature, examples) if examples is not None else {}
    longest = base.get("sequence") or min(signature.max_sequence or LONG, LONG)
    others = {name: base.get(name, 8) for name in names - {"batch", "sequence", "past", "total"}}
    shapes = [(1, 1, 0), (1, 7, 0), (3, 17, 0), (3, longest, 0)]
    if "past" in names:
        shapes = [(1, 1, 0), (3, 17, 0), (1, longest, 0), (1, 1, 9), (3, 1, 16), (3, 5, 4)]
    found: list[dict[str, int]] = []
    for batch, sequence, past in shapes:
        wanted = {"batch": batch, "sequence": min(sequence, longest), "past": past, **others}
        if past and signature.max_sequence and past + sequence > signature.max_sequence:
            continue
        sizes = {name: size for name, size in wanted.items() if name in names}
        if sizes not in found:
            found.append(sizes)
    return found


def _pad(mask: np.ndarray, *, left: bool) -> None:
    """Mask a growing part of each row but the first, at most half of it."""
    rows, total = mask.shape
    for row in range(1, rows):
        padding = total * row // (2 * (rows - 1))
        if left:
            mask[row, :padding] = 0
        else:
            mask[row, total - padding :] = 0


def _largest(
    spec: TensorSpec, want: np.ndarray, have: np.ndarray, kept: np.ndarray | None
) -> tuple[float, float]:
    """Largest error and largest reference value of one output, padded positions aside."""
    if want.shape != have.shape:
        raise Incorrect(f"output {spec.name!r} has shape {have.shape}, not {want.shape}")
    want, have = want.astype(np.float64), have.astype(np.float64)
    if kept is not None and spec.shape[:1] == ("batch",):
        for axis, name in enumerate(spec.shape):
            if name in ("sequence", "total"):
                rows = kept[:, kept.shape[1] - want.shape[axis] :] != 0
                want, have = np.moveaxis(want, axis, 1)[rows], np.moveaxis(have, axis, 1)[rows]
                break
    if not want.size:
        return 0.0, 0.0
    with np.errstate(invalid="ignore"):  # NaN comes out, and no comparison accepts it
        return float(np.abs(want - have).max()), float(np.abs(want).max())


_ORT_ERRORS = tuple(
    getattr(onnxruntime.capi.onnxruntime_pybind11_state, name)
    for name in (
        "Fail",
        "InvalidArgument",
        "InvalidGraph",
        "InvalidProtobuf",
        "NotImplemented",
        "RuntimeException",
        "NoSuchFile",
    )
)


def _text(sizes: Mapping[str, object]) -> str:
    return " ".join(f"{name}={size}" for name, size in sizes.items())
