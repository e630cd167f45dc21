"""Gram matrices of layers' inputs, found by running a graph on calibration examples.

They are all that GPTQ, AWQ and SmoothQuant have to know of the data, beside each input's magnitude
and range: the error of a layer's outputs is tr(D' H D) for a change D of its weight. Examples come
one at a time, each of its own length. The matrix of an input of width K takes 4 K^2 bytes whatever
the number of examples, and no more of them are held at once than fit into ``HELD_BYTES``: where
there are more, the graph runs again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compile.errors import Incorrect
from compile.signature import Feeds
from quantize.watch import watching_session

HELD_BYTES = 1 << 30


@dataclass
class InputStatistics:
    """Of the inputs x, (K,), that one layer saw."""

    gram: np.ndarray
    """float32 (K, K): the mean of x'x."""
    magnitudes: np.ndarray
    """float32 (K,): the mean of |x|."""
    low: np.ndarray
    high: np.ndarray
    """float32 (K,): the smallest and the largest that were seen."""
    count: int = 0
    """Inputs seen: tokens, not examples."""

    @classmethod
    def of_width(cls, width: int) -> InputStatistics:
        nothing = np.zeros(width, np.float32)
        gram = np.zeros((width, width), np.float32)
        return cls(gram, nothing, nothing + np.inf, nothing - np.inf)

    def add(self, values: np.ndarray) -> None:
        """(..., K) more of them."""
        rows = values.reshape(-1, values.shape[-1])
        self.count += len(rows)
        # Means that are kept up, so that float32 holds them however many inputs come.
        share = np.float32(len(rows) / self.count)
        self.gram += share * (rows.T @ rows / np.float32(len(rows)) - self.gram)
        self.magnitudes = self.magnitudes + share * (np.abs(rows).mean(axis=0) - self.magnitudes)
        self.low = np.minimum(self.low, rows.min(axis=0))
        self.high = np.maximum(self.high, rows.max(axis=0))

    def join(self, other: InputStatistics) -> None:
        """Those of another input as well, for a weight that reads both."""
        self.count += other.count
        share = np.float32(other.count / max(1, self.count))
        self.gram += share * (other.gram - self.gram)
        self.magnitudes += share * (other.magnitudes - self.magnitudes)


def input_statistics(
    folder: Path,
    widths: Mapping[str, int],
    examples: Callable[[], Iterable[Feeds]],
    held_bytes: int = HELD_BYTES,
) -> Iterator[dict[str, InputStatistics]]:
    """Statistics of the named float tensors, whose last axes have these widths, of the graph in
    ``folder``; in parts that fit into ``held_bytes``, in the order of the names.

    ``examples`` is asked once for each part. Raises Incorrect where a value is not finite.
    """
    for part in parts(widths, held_bytes):
        found = {name: InputStatistics.of_width(widths[name]) for name in part}
        session = watching_session(folder, part)
        for feeds in examples():
            for name, values in zip(part, session.run(part, feeds), strict=True):
                if not np.isfinite(values).all():
                    raise Incorrect(f"calibration: activation {name!r} is not finite")
                found[name].add(values)
        yield found


def parts(widths: Mapping[str, int], held_bytes: int) -> list[list[str]]:
    """The names in stretches whose matrices fit together; one that does not fit stands alone."""
    stretches: list[list[str]] = []
    taken = held_bytes + 1
    for name, width in widths.items():
        size = 4 * width * width
        if taken + size > held_bytes:
            stretches.append([])
            taken = 0
        stretches[-1].append(name)
        taken += size
    return stretches


def squared_error(change: np.ndarray, gram: np.ndarray) -> float:
    """tr(D' H D), the mean of ||x D||^2 over the inputs whose Gram matrix is H."""
    return float(np.vdot(change, gram @ change))
