"""The runtimes by name, readable without importing any of the packages that they stand on."""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass
from typing import cast

from compile.errors import InputError
from runtimes.session import Runtime


@dataclass(frozen=True)
class Entry:
    """What the parent must know of a runtime; its class repeats ``kinds`` and ``device``."""

    name: str
    target: str
    """``module:class``; the module imports its packages only when it is used."""
    kinds: tuple[str, ...]
    device: str
    compiles_shapes: bool = False
    """Each shape that it meets costs a compilation."""
    hidden: bool = False
    """Not shown to users: a tool of the tests."""

    def accepts(self, kind: str) -> bool:
        """Whether it opens artifacts of that kind."""
        return kind in self.kinds

    def load(self) -> Runtime:
        """The runtime itself, in a process that may import its packages."""
        module, _, attribute = self.target.partition(":")
        return cast(Runtime, getattr(importlib.import_module(module), attribute)())


ENTRIES = {
    entry.name: entry
    for entry in (
        Entry("torch-eager", "runtimes.torch_eager:TorchEager", ("torch",), "any"),
        Entry(
            "torch-compile",
            "runtimes.torch_compile:TorchCompile",
            ("torch",),
            "any",
            compiles_shapes=True,
        ),
        Entry("onnxruntime-cpu", "runtimes.onnx_runtime:OnnxRuntimeCpu", ("onnx",), "cpu"),
        Entry("onnxruntime-cuda", "runtimes.onnx_runtime:OnnxRuntimeCuda", ("onnx",), "cuda"),
        Entry(
            "onnxruntime-tensorrt",
            "runtimes.onnx_runtime:OnnxRuntimeTensorrt",
            ("onnx",),
            "cuda",
            compiles_shapes=True,
        ),
        Entry("openvino", "runtimes.openvino:OpenVino", ("onnx",), "cpu"),
        Entry("fake", "runtimes.fake:Fake", ("torch", "onnx"), "any", hidden=True),
    )
}


def names() -> list[str]:
    """The runtimes that users are shown, in their order of listing."""
    return [entry.name for entry in ENTRIES.values() if not entry.hidden]


def entry(name: str) -> Entry:
    """The entry of that name. Raises InputError with the nearest names, or all of them."""
    if found := ENTRIES.get(name):
        return found
    near = difflib.get_close_matches(name, names(), n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names())}"
    raise InputError(f"unknown runtime {name!r}; {hint}")
