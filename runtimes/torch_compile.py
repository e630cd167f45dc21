"""torch with ``torch.compile`` (TorchDynamo and Inductor).

Shapes are compiled as they are met, one specialised program each (``dynamic = false``), so that
what is timed does not depend on which other shape came first. Compilation happens in ``run`` and
``prepare``, never under the clock.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from compile.errors import Unsupported
from compile.signature import Feeds, Signature
from runtimes.options import parse
from runtimes.session import Availability, Outputs, Proof, SessionOptions
from runtimes.torch_eager import TorchSession, load_module, torch_availability

if TYPE_CHECKING:
    import torch

MAX_SHAPES = 64


@dataclass(frozen=True)
class TorchCompileOptions:
    mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = (
        "default"
    )
    dynamic: bool = False
    """One program for all shapes instead of one for each."""
    fullgraph: bool = False
    """A graph break is an error."""
    tf32: bool = False
    """Let CUDA multiply float32 in TF32. Off, so that a float32 row is float32 everywhere."""
    clock: Literal["host", "cuda-events"] = "host"
    """What times a call (``runtimes/clocks.py``). Events time the device alone, on CUDA only."""


class TorchCompile:
    name = "torch-compile"
    kinds = ("torch",)
    device = "any"
    options = TorchCompileOptions

    def availability(self) -> Availability:
        available = torch_availability()
        if not available.available:
            return available
        import torch._dynamo  # noqa: F401 - a library like any other: in the memory baseline

        compiler = os.environ.get("CXX", "g++")
        if shutil.which(compiler) is None and shutil.which("clang++") is None:
            return Availability(
                False,
                f"no C++ compiler: neither {compiler} nor clang++ is on PATH",
                "install g++, or point CXX at a C++ compiler",
                available.versions,
            )
        return available

    def open(self, folder: str, options: SessionOptions) -> TorchCompileSession:
        chosen = parse(TorchCompileOptions, options.extra, self.name)
        module, signature = load_module(folder)
        return TorchCompileSession(module, signature, options, chosen)


class TorchCompileSession(TorchSession):
    def __init__(
        self,
        module: torch.nn.Module,
        signature: Signature,
        options: SessionOptions,
        chosen: TorchCompileOptions,
    ) -> None:
        super().__init__(module, signature, options, tf32=chosen.tf32, clock=chosen.clock)
        import torch
        import torch._dynamo
        import torch._inductor.config

        torch._dynamo.config.recompile_limit = MAX_SHAPES
        # Beyond the limit dynamo would go on eagerly without a word.
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        # A pool of compiling processes would outlive the compilation and disturb the clock.
        torch._inductor.config.compile_threads = 1
        torch._dynamo.utils.counters.clear()
        self.call = torch.compile(
            self.module, mode=chosen.mode, dynamic=chosen.dynamic, fullgraph=chosen.fullgraph
        )

    def run(self, feeds: Feeds) -> Outputs:
        with _compiling():
            return super().run(feeds)

    def prepare(self, feeds: Feeds) -> Callable[[], object]:
        with _compiling():
            return super().prepare(feeds)

    def proof(self) -> Proof:
        """The eager session's account, and how often the compiler gave up on a graph.

        A break is counted once for each place where dynamo broke, over all shapes compiled.
        """
        from torch._dynamo.utils import counters

        breaks = counters["graph_break"]
        proof = replace(super().proof(), graph_breaks=sum(breaks.values()))
        if not breaks:
            return proof
        why = "; ".join(reason.splitlines()[0] for reason in list(breaks)[:3])
        fallback = "; ".join(filter(None, [proof.fallback, f"graph breaks: {why}"]))
        return replace(proof, fallback=fallback)


@contextmanager
def _compiling() -> Iterator[None]:
    """Turn the compiler's own failures into Unsupported, each with its first line."""
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

    try:
        yield
    except FailOnRecompileLimitHit as error:
        raise Unsupported(
            f"more than {MAX_SHAPES} shapes would be compiled; set dynamic = true"
        ) from error
    except TorchDynamoException as error:
        raise Unsupported(f"torch.compile failed: {str(error).strip().splitlines()[0]}") from error
