"""Which nodes of a graph half precision is not enough for, found by running it.

A value that leaves half precision's range, or that loses more by being rounded to it than the
outputs may lose, puts the nodes that make and read it on a list, worst first. As many from its head
as the emulated graph (``quantize/emulated_half.py``) needs to hold the floor are kept in float32,
and of those each is given up again without which it holds too: a mask's -3e38, say.
"""

from __future__ import annotations

import math
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
from onnx import NodeProto, TensorProto

from compile.graph import MODEL, array, consumers, load_onnx, producers, save_onnx
from compile.parity import open_session
from compile.signature import Feeds
from quantize.audit import PassFailed, decibels, signal_and_noise
from quantize.emulated_half import Stays, emulated_half, half_constant
from quantize.watch import watching_session

WATCHED = 64
"""Values that are outputs of a session at a time; where there are more, the graph runs again."""
REMOVALS = 32
"""Values given up one by one at most, the least of all first."""
LARGEST = float(np.finfo(np.float16).max)

Examples = Callable[[], Iterable[Feeds]]


class Trouble(NamedTuple):
    """A value that half precision does not hold, with all nodes that make or read it."""

    value: str
    largest: float
    """max |x| over the examples."""
    snr_db: float
    """Of the value to what rounding it loses; minus infinity where it leaves the range."""
    nodes: frozenset[str]

    @property
    def reason(self) -> str:
        if self.largest > LARGEST:
            return f"{self.value!r} reaches {self.largest:.3g}"
        return f"{self.value!r} keeps {self.snr_db:.1f} dB when it is rounded"


@dataclass
class _Seen:
    largest: float = 0.0
    signal: float = 0.0
    noise: float = 0.0

    def add(self, values: np.ndarray, half: np.ndarray) -> None:
        finite = np.isfinite(values)
        kept = values[finite]
        signal, noise = signal_and_noise(kept, half[finite].astype(np.float32))
        self.largest = max(self.largest, float(np.abs(kept).max(initial=0)))
        self.signal, self.noise = self.signal + signal, self.noise + noise


class HalfGraph:
    """A stored graph, its reference outputs, and what half precision would make of them."""

    def __init__(self, folder: Path, floats: set[str], examples: Examples, stays: Stays) -> None:
        self._folder, self._floats = folder, floats
        self._examples, self._stays = examples, stays
        self._model = load_onnx(folder)

    def troubles(self, floor_db: float) -> list[Trouble]:
        """Values and constants that keep less than ``floor_db``, the worst first."""
        seen = {name: _Seen() for name in self._constants()}
        for name, values in self._constants().items():
            seen[name].add(values, half_constant(values))
        for name, values in self._values():
            with np.errstate(over="ignore"):
                half = values.astype(np.float16)
            seen.setdefault(name, _Seen()).add(values, half)
        made, readers = producers(self._model), consumers(self._model)
        found = []
        for name, sums in seen.items():
            beyond = sums.largest > LARGEST
            ratio = -math.inf if beyond else decibels(sums.signal, sums.noise)
            touching = [*readers.get(name, ()), *([made[name]] if name in made else [])]
            nodes = frozenset(n.name for n in touching if not self._stays(n))
            if nodes and sums.signal and ratio < floor_db:
                found.append(Trouble(name, sums.largest, ratio, nodes))
        return sorted(found, key=lambda trouble: (trouble.snr_db, -trouble.largest))

    def snr_db(self, kept: frozenset[str]) -> float:
        """Of the worst output over all examples where these nodes stay in float32; minus infinity
        where one is not finite."""

        def stays(node: NodeProto) -> bool:
            return node.name in kept or self._stays(node)

        power: defaultdict[str, float] = defaultdict(float)
        noise: defaultdict[str, float] = defaultdict(float)
        with tempfile.TemporaryDirectory(prefix="assay-half-") as name:
            path = save_onnx(emulated_half(self._model, self._floats, stays), Path(name))
            # Not optimised, so that no rounding is taken out.
            ours = open_session(path, level=ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
            theirs = open_session(self._folder / MODEL)
            outputs = [output.name for output in theirs.get_outputs()]
            for feeds in self._examples():
                answers = zip(theirs.run(outputs, feeds), ours.run(outputs, feeds), strict=True)
                for output, (expected, got) in zip(outputs, answers, strict=True):
                    if not np.isfinite(got).all():
                        return -math.inf
                    signal, lost = signal_and_noise(expected, got)
                    power[output] += signal
                    noise[output] += lost
        return min(decibels(power[output], noise[output]) for output in outputs)

    def _constants(self) -> dict[str, np.ndarray]:
        graph = self._model.graph
        return {t.name: array(t) for t in graph.initializer if t.data_type == TensorProto.FLOAT}

    def _values(self) -> Iterator[tuple[str, np.ndarray]]:
        names = sorted(self._floats)
        for start in range(0, len(names), WATCHED):
            part = names[start : start + WATCHED]
            session = watching_session(self._folder, part)
            for feeds in self._examples():
                yield from zip(part, session.run(part, feeds), strict=True)


def search_kept(
    name: str, graph: HalfGraph, floor_db: float, progress: Callable[[str], None]
) -> tuple[frozenset[str], dict[str, Any]]:
    """The fewest nodes found that have to stay in float32 for outputs of at least ``floor_db``.

    Facts: ``kept_why``, what each value does that nodes are kept for, and ``tried``, how many
    graphs were run. Raises PassFailed where the list as a whole is not enough.
    """
    tried = 0

    def holds(troubles: Sequence[Trouble]) -> bool:
        nonlocal tried
        tried += 1
        progress(f"{name}: searching, graph {tried}")
        return graph.snr_db(_nodes(troubles)) >= floor_db

    if holds([]):
        return frozenset(), {"kept_why": [], "tried": tried}
    found = graph.troubles(floor_db)
    if not holds(found):
        raise PassFailed(
            name,
            "search",
            f"nodes to keep in float32 for outputs of at least {floor_db:g} dB",
            f"{graph.snr_db(_nodes(found)):.1f} dB with all {len(_nodes(found))} kept whose values "
            "half precision does not hold",
        )
    few, many = 0, len(found)
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if holds(found[:middle]) else (middle, many)
    # The last of them is needed behind those before it; whether these are is not said yet.
    fewest = found[:many]
    for trouble in list(reversed(fewest[:-1]))[:REMOVALS]:
        without = [other for other in fewest if other is not trouble]
        fewest = without if holds(without) else fewest
    return _nodes(fewest), {"kept_why": [trouble.reason for trouble in fewest], "tried": tried}


def _nodes(troubles: Iterable[Trouble]) -> frozenset[str]:
    return frozenset(name for trouble in troubles for name in trouble.nodes)
