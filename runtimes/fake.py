"""A runtime of known behaviour, against which the measuring loop and the suite runner are tested.

It opens any artifact and reads ``fake.json`` in its folder, whose keys are the fields of
``Behaviour``; without the file the defaults hold. Its latency is made by sleeping, so that the
truth does not depend on how busy the machine is (a sleep is late by some 0.1 ms, never early).
"""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from compile.errors import Unsupported
from compile.signature import Feeds, Signature, TensorSpec
from runtimes import memory
from runtimes.manifest import read_signature
from runtimes.options import parse
from runtimes.session import (
    Availability,
    FairnessContract,
    MemoryBreakdown,
    Outputs,
    Proof,
    SessionOptions,
)

BEHAVIOUR = "fake.json"


@dataclass(frozen=True)
class Behaviour:
    """What a fake session does. Calls are counted from 0, over ``run`` and timed calls alike."""

    latency_ms: float = 1.0
    pattern: Literal["constant", "bimodal", "drifting", "spiky", "slow-warm-up"] = "constant"
    factor: float = 2.0
    """``bimodal``: a call is this many times slower with probability ``share``. ``drifting``:
    the latency has grown by this factor after ``period`` calls, linearly, and goes on growing.
    ``spiky``: every ``period``-th call is this many times slower. ``slow-warm-up``: the first
    call is, and the excess falls linearly to nothing at call ``period``."""
    share: float = 0.5
    period: int = 100
    uneven: float = 0.0
    """Processes differ by a factor whose logarithm has this standard deviation, drawn from the
    process's number: two processes of one program are not equally fast."""
    seed: int = 0
    fault: Literal[
        "none", "crash", "exit", "hang", "leak", "nan", "wrong", "out-of-memory", "error"
    ] = "none"
    fault_at: int = 0
    """First call that shows the fault; it is lasting."""
    misled: float = 0.0
    """Share of the examples that are answered upside down, whatever their batch or process: an
    accuracy that is known."""
    held_bytes: int = 0
    """What it holds from the opening on: memory that is known."""
    precision: str = "f32"
    """What its contract says."""
    leak_bytes: int = 1 << 20
    """What each call keeps under the fault ``leak``."""
    spins: bool = False
    """A thread of its own keeps a core busy from the opening on, like a pool that never sleeps."""
    unavailable: str = ""
    """Reason that opening gives for being unsupported."""


class Fake:
    name = "fake"
    kinds = ("torch", "onnx")
    device = "any"
    options = Behaviour

    def availability(self) -> Availability:
        return Availability(True, versions={"fake": "1"})

    def open(self, folder: str, options: SessionOptions) -> FakeSession:
        """The options are those of ``Behaviour`` and win over ``fake.json``."""
        file = Path(folder) / BEHAVIOUR
        written: Mapping[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        behaviour = parse(Behaviour, {**written, **options.extra}, self.name)
        if behaviour.unavailable:
            raise Unsupported(behaviour.unavailable)
        return FakeSession(read_signature(folder), behaviour, options)


class FakeSession:
    def __init__(self, signature: Signature, behaviour: Behaviour, options: SessionOptions) -> None:
        self._signature = signature
        self._behaviour = behaviour
        self._options = options
        self._random = np.random.default_rng(behaviour.seed)
        drawn = np.random.default_rng(os.getpid()).standard_normal()
        self._factor = math.exp(behaviour.uneven * drawn)
        self._calls = 0
        self._leaked: list[np.ndarray] = []
        self._held = np.ones(behaviour.held_bytes, np.uint8)
        if behaviour.spins:
            threading.Thread(target=_spin, daemon=True).start()

    def run(self, feeds: Feeds) -> Outputs:
        faulty = self._behave()
        outputs = expected_outputs(self._signature, feeds)
        if self._behaviour.misled:
            turned = misled(feeds, self._behaviour.misled)
            outputs = {name: _turned(array, turned) for name, array in outputs.items()}
        if faulty == "nan":
            return {name: _spoiled(array, np.nan) for name, array in outputs.items()}
        if faulty == "wrong":
            return {name: _spoiled(array, 1000) for name, array in outputs.items()}
        return outputs

    def prepare(self, feeds: Feeds) -> Callable[[], object]:
        return self._behave

    def contract(self) -> FairnessContract:
        return FairnessContract(
            clock="host",
            copies="none",
            synchronised=True,
            io_binding=False,
            threads=self._options.threads,
            precision=self._behaviour.precision,
        )

    def proof(self) -> Proof:
        return Proof(providers={"fake": 1}, kernels={"Sleep": 1})

    def memory(self, feeds: Feeds) -> MemoryBreakdown:
        peak_known = memory.reset_peak()
        outputs = self.run(feeds)
        tensors = [*feeds.values(), *outputs.values()]
        return memory.cpu_breakdown(0, peak_known, tensors)

    def close(self) -> None:
        self._leaked.clear()

    def _behave(self) -> str:
        """Sleep as long as this call has to, show its fault, and return the fault's name."""
        call = self._calls
        self._calls += 1
        time.sleep(self._factor * latency_ms(self._behaviour, call, self._random) / 1e3)
        if call < self._behaviour.fault_at:
            return "none"
        fault = self._behaviour.fault
        if fault == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif fault == "exit":
            print("the library gave up", flush=True)
            os._exit(3)
        elif fault == "hang":
            time.sleep(1e6)
        elif fault == "leak":
            self._leaked.append(np.ones(self._behaviour.leak_bytes, np.uint8))
        elif fault == "out-of-memory":
            raise MemoryError("a fake allocation was refused")
        elif fault == "error":
            raise RuntimeError("a fake library failed")
        return fault


def _spin() -> None:
    while True:
        pass


def latency_ms(behaviour: Behaviour, call: int, random: np.random.Generator) -> float:
    """Milliseconds that call number ``call`` takes: the truth that a measurement must find."""
    base, factor, period = behaviour.latency_ms, behaviour.factor, behaviour.period
    match behaviour.pattern:
        case "bimodal":
            return base * (factor if random.random() < behaviour.share else 1)
        case "drifting":
            return base * (1 + (factor - 1) * call / period)
        case "spiky":
            return base * (factor if call % period == period - 1 else 1)
        case "slow-warm-up":
            return base * (1 + (factor - 1) * max(0, 1 - call / period))
    return base


def expected_outputs(signature: Signature, feeds: Feeds) -> Outputs:
    """What a healthy fake session answers: each element is the index along the last axis.

    An axis that no input fixes is of size 1.
    """
    sizes = {
        axis: size
        for spec in signature.inputs
        for axis, size in zip(spec.shape, feeds[spec.name].shape, strict=True)
        if isinstance(axis, str)
    }
    return {spec.name: _ramp(spec, sizes) for spec in signature.outputs}


def misled(feeds: Feeds, share: float) -> np.ndarray:
    """bool ``(batch,)``: the examples that a fake is wrong on, by the checksum of the first input's
    row, trailing zeros (padding) aside."""
    rows = next(iter(feeds.values()))
    sums = [zlib.crc32(np.trim_zeros(row.ravel(), "b").tobytes()) for row in rows]
    return np.array(sums) < share * 2**32


def _turned(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """``array`` with the last axis reversed in these of its rows."""
    if array.ndim < 2 or len(array) != len(rows):
        return array
    turned = array.copy()
    turned[rows] = array[rows][..., ::-1]
    return turned


def _ramp(spec: TensorSpec, sizes: Mapping[str, int]) -> np.ndarray:
    shape = [axis if isinstance(axis, int) else sizes.get(axis, 1) for axis in spec.shape]
    ramp = np.arange(shape[-1] if shape else 1)
    return np.ascontiguousarray(np.broadcast_to(ramp, shape or (1,))).astype(spec.dtype)


def _spoiled(array: np.ndarray, value: float) -> np.ndarray:
    return np.full_like(array, value) if array.dtype.kind == "f" else array


def write_fake(folder: Path, signature: Signature, behaviour: Behaviour) -> None:
    """Make ``folder`` openable by this runtime: a signature and a behaviour, and no model."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps({"signature": signature.to_json()}))
    (folder / BEHAVIOUR).write_text(json.dumps(asdict(behaviour)))
