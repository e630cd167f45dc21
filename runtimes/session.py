"""The contract between a runtime and everything that measures it.

A runtime opens an artifact as a session, inside a worker process of its own. This module imports
nothing but NumPy and the ground floor's signature, because a worker may run under another
environment's interpreter, where Assay's own dependencies are absent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from compile.signature import Feeds

Outputs = Feeds
"""A call's outputs by name, on the host."""


@dataclass(frozen=True)
class SessionOptions:
    """How a session is to be opened. What cannot be honoured is refused, never ignored."""

    threads: int = 1
    """Intra-op threads. The session verifies that it got them."""
    device: str = "cpu"
    """``cpu`` or ``cuda:N``."""
    attention: str = "default"
    """Attention implementation; ``default`` leaves the choice to the runtime, which reports it."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Options of this runtime alone, from the suite's ``[runtimes.NAME]`` table. Unknown keys
    are an InputError that lists the allowed ones."""


@dataclass(frozen=True)
class FairnessContract:
    """What the clock of a session's timed call covers. Unlike contracts are not ranked silently."""

    clock: str
    """``host`` or ``cuda-events``: the worker times with the clock of that name
    (``runtimes/clocks.py``)."""
    copies: str
    """``none`` (inputs and outputs are host arrays already), ``excluded`` (bound on the device
    before the clock starts) or ``included``."""
    synchronised: bool
    """A sample ends only when the call's result is finished: the call waits for it, or the clock
    does."""
    io_binding: bool
    threads: int
    """Threads verified, not asked for."""
    precision: str
    """What arithmetic a float32 operation may use: ``f32``, ``tf32``, ``bf16``, ..."""
    start: str = "warm"
    allocator: str = "system"
    """The process's C allocator and its settings (``runtimes/allocator.py``); the worker fills
    it in. They decide whether a call's large blocks are kept or taken from the kernel anew."""


@dataclass(frozen=True)
class Proof:
    """What really ran, as far as the runtime can be made to tell."""

    providers: Mapping[str, int] = field(default_factory=dict)
    """Execution provider (or device) -> number of nodes it ran."""
    kernels: Mapping[str, int] = field(default_factory=dict)
    """Kernel or operator type in the optimised graph -> count."""
    integer_kernels: int = 0
    """Nodes that multiply integers (MatMulInteger, QLinear..., MatMulNBits at level 4)."""
    casts: int = 0
    """Cast, QuantizeLinear and DequantizeLinear nodes left in the optimised graph."""
    graph_breaks: int = 0
    """torch.compile only."""
    attention: str = ""
    """The attention kernel that ran, for example ``sdpa:flash`` or ``onnx:Attention``."""
    fallback: str = ""
    """What ran elsewhere or otherwise than asked, in one line; empty when nothing did."""


@dataclass(frozen=True)
class MemoryBreakdown:
    """Bytes of one session. None where this runtime cannot tell, never zero instead.

    ``waste_bytes`` = ``reserved_bytes`` - ``in_use_bytes``: what the allocators hold and nobody
    uses. For a CPU session they are the C allocator's (``mallinfo2``: arenas and mapped blocks);
    on CUDA the caching allocator's.
    """

    weights_bytes: int | None = None
    resident_bytes: int | None = None
    """Resident set of the worker and its children now."""
    children_bytes: int | None = None
    """What of it the children hold."""
    baseline_bytes: int | None = None
    """The same just before the artifact was opened (libraries imported)."""
    peak_bytes: int | None = None
    """Largest resident set since the last reset; on CUDA, largest ``in_use_bytes``."""
    reserved_bytes: int | None = None
    in_use_bytes: int | None = None
    arena_reserved_bytes: int | None = None
    """What the runtime's own allocator holds, where it has one on top of the above: ONNX
    Runtime's arena in a second session with the same options."""
    arena_peak_bytes: int | None = None
    """The most of it that one call had in use."""
    device_active_bytes: int | None = None
    """torch on CUDA: ``in_use_bytes`` and blocks that wait for a stream to be done with them."""
    minimum_bytes: int | None = None
    """The theoretical minimum: weights, inputs and outputs of one call."""

    @property
    def waste_bytes(self) -> int | None:
        if self.reserved_bytes is None or self.in_use_bytes is None:
            return None
        return self.reserved_bytes - self.in_use_bytes

    def to_json(self) -> dict[str, int | None]:
        return {**asdict(self), "waste_bytes": self.waste_bytes}


class Session(Protocol):
    """An open artifact."""

    def run(self, feeds: Feeds) -> Outputs:
        """One call with host arrays in and out: for correctness and accuracy."""

    def prepare(self, feeds: Feeds) -> Callable[[], object]:
        """The call to be timed, its inputs already in place, synchronised when it returns."""

    def contract(self) -> FairnessContract: ...

    def proof(self) -> Proof:
        """Called after at least one ``run``."""

    def memory(self, feeds: Feeds) -> MemoryBreakdown:
        """Memory after a call with ``feeds``. ``minimum_bytes`` is for that call."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class Availability:
    """Whether a runtime can be used here and, if not, why and what would help."""

    available: bool
    reason: str = ""
    way_out: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of what decides its results, the interpreter included (which the worker adds)."""


class Runtime(Protocol):
    """One way to open artifacts. One module each, registered in ``runtimes.registry``."""

    name: str
    kinds: tuple[str, ...]
    """Artifact kinds that it opens: ``("torch",)`` or ``("onnx",)``."""
    device: str
    """``cpu``, ``cuda`` or ``any``."""
    options: type
    """Dataclass of the runtime's own options, readable without its packages."""

    def availability(self) -> Availability:
        """Asked inside a process of the runtime's own interpreter. Never raises."""

    def open(self, folder: str, options: SessionOptions) -> Session:
        """Open the artifact in ``folder``. Raises Unsupported or InputError."""
