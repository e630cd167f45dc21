"""ONNX Runtime's graph fusions, done once and kept, instead of at every start of a session."""

from __future__ import annotations

import hashlib
import platform
import tempfile
from pathlib import Path
from typing import Any, Literal

import onnx
import onnxruntime

from compile.artifact import Artifact, Made, Step, Store
from compile.canonical import canonicalise
from compile.distributions import onnxruntime_distributions
from compile.errors import InputError
from compile.graph import DATA, MODEL, count_ops, load_onnx, save_onnx
from compile.parity import check_parity, onnx_reference, open_session

Level = Literal["basic", "extended", "all"]

LEVELS = {
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
"""``basic`` keeps to standard operators, ``extended`` makes ONNX Runtime's own (SkipLayerNorm,
BiasGelu), ``all`` adds layouts and kernels chosen for this processor."""


def fuse(
    artifact: Artifact, store: Store, level: Level = "extended", *, tolerance: float = 1e-4
) -> Artifact:
    """The artifact's graph as ONNX Runtime optimises it at ``level``, in canonical form again.

    Facts: ``nodes_before`` and ``nodes_after`` by operator, ``parity`` with the graph before.
    Level ``all`` depends on the processor, which is therefore part of its key. Raises InputError
    for an artifact that is not ONNX or an unknown level, RuntimeError where nothing was fused,
    and Incorrect where the result differs by more than ``tolerance``.
    """
    if artifact.kind != "onnx":
        raise InputError("fuse works on an ONNX artifact; put export before it in the recipe")
    if level not in LEVELS:
        raise InputError(f"fuse has no level {level!r}; it has {', '.join(LEVELS)}")
    parameters: dict[str, Any] = {"level": level, "tolerance": tolerance}
    if level == "all":
        parameters["processor"] = _processor()
    step = Step("fuse", 2, parameters, libraries=("onnx", *onnxruntime_distributions()))
    return store.derive(step, artifact, lambda folder: _fuse(artifact, folder, level, tolerance))


def _fuse(artifact: Artifact, folder: Path, level: Level, tolerance: float) -> Made:
    source = artifact.folder / MODEL
    before = count_ops(load_onnx(source))
    fused = _optimise(source, level)
    canonicalise(fused)
    after = count_ops(fused)
    if after == before:
        raise RuntimeError(
            f"fuse at level {level} found nothing to fuse in {sum(before.values())} nodes; remove "
            "it from the recipe or choose a higher level"
        )
    path = save_onnx(fused, folder)
    parity = check_parity(
        onnx_reference(source, artifact.signature),
        path,
        artifact.signature,
        tolerance=tolerance,
    )
    facts = {"nodes_before": before, "nodes_after": after, "parity": parity}
    return Made("onnx", artifact.signature, facts)


def _optimise(source: Path, level: Level) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as name:
        target = Path(name) / MODEL
        # Large tensors go to their own file: one protobuf may not reach 2 GiB.
        open_session(source, level=LEVELS[level], optimised=target, optimised_data=DATA)
        return load_onnx(target)


def _processor() -> str:
    """The processor's instruction sets, hashed: what ``all`` chooses its kernels by."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else [platform.processor()]
    features = next((x for x in lines if x.startswith(("flags", "Features"))), lines[0])
    digest = hashlib.sha256(features.encode()).hexdigest()[:16]
    return f"{platform.machine()}-{digest}"
