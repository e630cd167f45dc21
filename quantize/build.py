"""A recipe is carried out: each pass a step of the store, each starting from the one before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from compile.artifact import Artifact, Kind, Made, Step, Store
from compile.data import DataSource, fitted
from compile.errors import InputError, Unsupported
from quantize.passes import (
    Awq,
    Bf16,
    Distill,
    Fp8,
    Fp16,
    Fuse,
    Int4,
    Int8,
    Pass,
    Prune,
    PruneStructured,
    Qat,
    Smooth,
)
from quantize.recipe import Recipe

Progress = Callable[[str], None]
"""Is told what is being done, a line at a time."""


def build(
    recipe: Recipe,
    source: Artifact,
    target: Kind,
    store: Store,
    data: DataSource | None,
    progress: Progress,
) -> Artifact:
    """The artifact of kind ``target`` that ``recipe`` makes of ``source``.

    A torch artifact is exported before the first pass that works on ONNX, or at the end. What
    the store holds already is not made again. Raises

    - Unsupported where a pass of the recipe does not exist for ``target`` or for ``source``;
    - InputError where a pass needs data and ``data`` is None;
    - PassFailed (``quantize.audit``) where a pass did not do what it declares.
    """
    plan = _plan(recipe, source.kind, target)
    for asked in plan:
        if asked and asked.needs_data and data is None:
            raise InputError(
                f"recipe {recipe.name!r}: pass {asked.name!r} needs data; give the model a task, "
                "or name a file of examples"
            )
    artifact = source
    for asked in plan:
        if asked is None:
            artifact = _export(artifact, store, progress)
        elif isinstance(asked, Fuse):
            artifact = _fuse(asked, artifact, store, progress)
        else:
            artifact = _derive(asked, artifact, store, data, progress)
    return artifact


def _plan(recipe: Recipe, source: Kind, target: Kind) -> list[Pass | None]:
    """The passes in their order, with None where the export belongs."""
    plan: list[Pass | None] = []
    kind = source
    for asked in recipe.passes:
        if asked.why_not(target):
            raise Unsupported(f"recipe {recipe.name!r}: {asked.why_not(target)}")
        wanted = asked.works_on(kind, target)
        if kind == "onnx" and wanted == "torch":
            raise Unsupported(
                f"recipe {recipe.name!r}: pass {asked.name!r} trains a torch module, and this "
                "model is an ONNX file"
            )
        if kind == "torch" and wanted == "onnx":
            plan.append(None)
        plan.append(asked)
        kind = wanted
    if kind == "torch" and target == "onnx":
        plan.append(None)
    elif kind == "onnx" and target == "torch":
        raise Unsupported(f"recipe {recipe.name!r}: an ONNX file cannot become a torch module")
    return plan


def _export(artifact: Artifact, store: Store, progress: Progress) -> Artifact:
    # Here, because a model that starts as an ONNX file needs no torch.
    from compile.export import export_onnx

    progress("export")
    return export_onnx(artifact, store)


def _fuse(asked: Fuse, artifact: Artifact, store: Store, progress: Progress) -> Artifact:
    from compile.fuse import fuse

    progress("fuse")
    return fuse(artifact, store, asked.level)


def _derive(
    asked: Pass,
    artifact: Artifact,
    store: Store,
    data: DataSource | None,
    progress: Progress,
) -> Artifact:
    """One pass as a step of the store."""
    parameters: dict[str, Any] = asked.parameters()
    # Pruned heads have left their caches: data that feed the model it started from feed others.
    data = fitted(data, artifact.signature) if data else None
    if isinstance(asked, Int8 | Smooth):
        from quantize.int8 import weight_bits

        # Decided by this machine's processor, so it has to be part of the key.
        parameters["weight_bits"] = weight_bits()
    step = Step(
        name=asked.name,
        version=asked.version,
        parameters=parameters,
        data=data.fingerprint if data and asked.needs_data else "",
        libraries=asked.distributions(artifact.kind),
    )

    def make(folder: Path) -> Made:
        progress(asked.name)
        return _apply(asked, artifact, folder, store, data, progress)

    return store.derive(step, artifact, make)


def _apply(
    asked: Pass,
    source: Artifact,
    folder: Path,
    store: Store,
    data: DataSource | None,
    progress: Progress,
) -> Made:
    """Run the pass's own module, imported here: each brings libraries that others do not need."""
    match asked:
        case Distill() if data:
            from quantize.distill import make_distilled

            teacher = _export(source, store, progress) if asked.teacher == "onnx" else None
            return make_distilled(source, asked, folder, data, progress, teacher)
        case PruneStructured() if data:
            from quantize.prune_structured import make_smaller

            return make_smaller(source, asked, folder, data, progress)
        case Prune() if source.kind == "onnx":
            from quantize.prune_onnx import make_pruned_onnx

            return make_pruned_onnx(source, asked, folder, data, progress)
        case Prune():
            from quantize.prune import make_pruned

            return make_pruned(source, asked, folder, data, progress)
        case Qat() if data:
            from quantize.qat import make_trained

            return make_trained(source, asked, folder, data, progress)
        case Fp16() if source.kind == "onnx":
            from quantize.fp16 import make_fp16

            return make_fp16(source, asked, folder, data, progress)
        case Fp16() | Bf16():
            from quantize.half import make_half

            return make_half(source, asked, folder)
        case Fp8():
            from quantize.fp8 import make_fp8

            return make_fp8(source, asked, folder)
        case Awq() if data:
            from quantize.awq import make_awq

            return make_awq(source, asked, folder, data, progress)
        case Smooth() if data:
            from quantize.smooth import make_smooth

            return make_smooth(source, asked, folder, data, progress)
        case Int8():
            from quantize.int8 import make_int8

            return make_int8(source, asked, folder, data, progress)
        case Int4():
            from quantize.int4 import make_int4

            return make_int4(source, asked, folder, data, progress)
    raise TypeError(f"no implementation of pass {asked.name!r}")
