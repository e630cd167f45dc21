"""The artifacts of one model, made when they are asked for, and what rows say of them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

from compile.artifact import Artifact, Kind
from compile.errors import InputError
from quantize.passes import Pass
from quantize.recipe import Recipe
from runtimes import registry
from suites import rows
from suites.builder import Builder, BuildRequest
from suites.subject import Subject
from suites.suite import FP32, Suite

PLAIN = Recipe(name=FP32)


class Builds:
    """One model's builds. Each is asked of the builder once, and a failure is remembered."""

    def __init__(
        self,
        suite: Suite,
        subject: Subject,
        builder: Builder,
        stage: Callable[[str], None],
    ) -> None:
        """``stage`` is told what is being built."""
        self._suite = suite
        self._subject = subject
        self._builder = builder
        self._stage = stage
        self._made: dict[tuple[tuple[Pass, ...], Kind], Artifact | Exception] = {}
        self._seconds: dict[str, float] = {}

    def base(self) -> Artifact:
        """The fp32 model itself. Without it there is nothing to compare."""
        return self.get(PLAIN, "onnx" if self._subject.found.family == "onnx" else "torch")

    def kind(self, runtime: str) -> Kind:
        """The kind that a runtime opens; of several, the one that the model came as."""
        kinds = registry.entry(runtime).kinds
        return "onnx" if kinds == ("onnx",) or self._subject.found.family == "onnx" else "torch"

    def get(self, recipe: Recipe, kind: Kind) -> Artifact:
        """The artifact, found or made. Raises one of ``rows.FAILURES``, or InputError."""
        # Not by its name: two files in two folders may have the same one.
        key = (recipe.passes, kind)
        if key not in self._made:
            start = time.perf_counter()
            self._stage(f"building {self._subject.name} / {recipe.name} for {kind}")
            request = BuildRequest(
                self._subject.entry,
                self._suite.folder,
                self._suite.task(self._subject.name),
                recipe,
                kind,
            )
            try:
                artifact = self._builder.build(request)
            except rows.FAILURES as error:
                self._made[key] = error
            except InputError as error:
                where = f"{self._suite.path}: models.{self._subject.name}"
                raise InputError(f"{where}, recipe {recipe.name!r}: {error}") from error
            else:
                self._made[key] = artifact
                self._seconds[artifact.key] = time.perf_counter() - start
        made = self._made[key]
        if isinstance(made, Exception):
            raise made
        return made

    def columns(self, artifact: Artifact) -> dict[str, Any]:
        """What a row says of its artifact: sizes, also relative to the fp32 build of its kind
        (whether or not that has cells of its own), lineage, and the seconds that making it took."""
        plain = None
        with contextlib.suppress(*rows.FAILURES):
            plain = self.get(PLAIN, artifact.kind).bytes
        return {
            **rows.size(artifact, plain),
            "build_s": self._seconds.get(artifact.key, 0.0),
        }

    def close(self) -> None:
        """End the builder: the memory that building took is returned before anything is timed."""
        self._builder.close()
