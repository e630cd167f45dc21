"""The ranges of activations, found by running a graph on calibration examples.

Examples come one at a time, each of its own length, and only a fixed number of bins is kept for
each activation: memory does not grow with the data. Nothing is cached here; the store keys a
calibrated artifact by the fingerprint of its data.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from compile.errors import Incorrect
from compile.signature import Feeds
from quantize.passes import Activations, Int8
from quantize.watch import watching_session

BINS = 4096
"""Bins of a histogram, the same number on both sides of zero."""
LEVELS = 256
CANDIDATES = 64
"""Thresholds that ``entropy`` weighs against one another."""


@dataclass(frozen=True)
class Range:
    """The values that 8-bit codes of an activation span."""

    low: float
    high: float

    def grid(self, activations: Activations = "u8") -> tuple[np.ndarray, np.ndarray]:
        """Scale (float32) and zero point (of the codes' type), both scalars; zero itself is always
        exact. ``u8`` spans the range, and zero if that lies outside; ``s8`` spans as much on
        either side of zero, whose code is 0."""
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        if activations == "s8":
            scale = np.float32(max(-low, high) / (LEVELS // 2 - 1)) or np.float32(1)
            return np.asarray(scale), np.zeros((), np.int8)
        scale = np.float32((high - low) / (LEVELS - 1)) or np.float32(1)
        return np.asarray(scale), np.asarray(np.clip(round(-low / scale), 0, 255), np.uint8)

    def rounded(self, values: np.ndarray, activations: Activations = "u8") -> np.ndarray:
        """What the codes of these values stand for."""
        scale, zero = self.grid(activations)
        codes, types = np.rint(values / float(scale)) + int(zero), np.iinfo(zero.dtype)
        return (np.clip(codes, types.min, types.max) - int(zero)) * float(scale)


@dataclass
class Extremes:
    """The smallest and the largest value of an activation."""

    low: float = np.inf
    high: float = -np.inf

    def add(self, values: np.ndarray) -> None:
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))

    def minmax(self) -> Range:
        return Range(self.low, self.high)


@dataclass
class Histogram(Extremes):
    """Counts of an activation's values in equal bins over [-limit, limit].

    When a value lies outside, neighbouring bins are joined and the limit doubles, so the counts
    stay exact for the bins that there are.
    """

    limit: float = 0.0
    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def add(self, values: np.ndarray) -> None:
        super().add(values)
        largest = max(-self.low, self.high)
        if self.limit == 0.0:
            self.limit = largest
        while self.limit and largest > self.limit:
            pairs = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.pad(pairs, BINS // 4)
            self.limit *= 2
        if self.limit == 0.0:
            # Nothing but zeros so far: no width to cut into bins, and no matter which bin.
            self.counts[BINS // 2] += values.size
            return
        self.counts += np.histogram(values, BINS, (-self.limit, self.limit))[0]

    def percentile(self, share: float) -> Range:
        """The range that holds ``share`` per cent of the values, as many cut off on each side."""
        cumulated = np.cumsum(self.counts) / self.counts.sum()
        outside = (100 - share) / 200
        edges = np.linspace(-self.limit, self.limit, BINS + 1)
        first = int(np.searchsorted(cumulated, outside, side="right"))
        last = int(np.searchsorted(cumulated, 1 - outside, side="left"))
        return self._within(edges[first], edges[min(last, BINS - 1) + 1])

    def entropy(self) -> Range:
        """The range whose 8-bit codes lose least information about the values.

        Of thresholds between 1/64 and all of the limit, the one with the least Kullback-Leibler
        divergence between the clipped distribution and its 256-level form (Migacz 2017, "8-bit
        inference with TensorRT").
        """
        half = BINS // 2
        best, best_loss = half, np.inf
        for width in np.linspace(max(LEVELS // 2, half // CANDIDATES), half, CANDIDATES):
            kept = int(width)
            inside = self.counts[half - kept : half + kept].astype(np.float64)
            clipped = inside.copy()
            clipped[0] += self.counts[: half - kept].sum()
            clipped[-1] += self.counts[half + kept :].sum()
            if (loss := _divergence(clipped, _coarsened(inside))) < best_loss:
                best, best_loss = kept, loss
        threshold = self.limit * best / half
        return self._within(-threshold, threshold)

    def mse(self, activations: Activations = "u8") -> Range:
        """The range whose 8-bit codes are closest to the values, in the mean of the squares.

            argmin  sum_i n_i (Q(x_i; low, high) - x_i)^2

        over bins of middle x_i and count n_i. Both ends are pulled in by steps of 1/64 of their
        distance from zero, in every combination, or together where codes are symmetric: what is
        cut off at one end makes the steps finer for all (as in Banner et al. 2019, "Post-training
        4-bit quantization", without their assumption about the distribution).
        """
        held = self.counts > 0
        edges = np.linspace(-self.limit, self.limit, BINS + 1)
        values, counts = ((edges[:-1] + edges[1:]) / 2)[held], self.counts[held]
        shares = np.arange(CANDIDATES, CANDIDATES // 4, -1) / CANDIDATES
        if activations == "s8":
            reach = max(-self.low, self.high)
            candidates = [(-share * reach, share * reach) for share in shares]
        else:
            lows = shares * self.low if self.low < 0 else [0.0]
            highs = shares * self.high if self.high > 0 else [0.0]
            candidates = list(itertools.product(lows, highs))
        best, least = self.minmax(), np.inf
        for low, high in candidates:
            tried = Range(float(low), float(high))
            error = float(counts @ np.square(tried.rounded(values, activations) - values))
            if error < least:
                best, least = tried, error
        return best

    def _within(self, low: float, high: float) -> Range:
        return Range(max(low, self.low), min(high, self.high))


def activation_ranges(
    folder: Path, tensors: Sequence[str], examples: Iterable[Feeds], asked: Int8
) -> dict[str, Range]:
    """The range over the examples of each named float tensor of the graph in ``folder``.

    Raises Incorrect where an activation is not finite.
    """
    watch = Extremes if asked.calibration == "minmax" else Histogram
    watched = {name: watch() for name in tensors}
    session = watching_session(folder, tensors)
    for feeds in examples:
        outputs = session.run(list(tensors), feeds)
        for name, values in zip(tensors, outputs, strict=True):
            if not np.isfinite(values).all():
                raise Incorrect(f"calibration: activation {name!r} is not finite")
            watched[name].add(values)
    return {name: _range(seen, asked) for name, seen in watched.items()}


def _range(seen: Extremes, asked: Int8) -> Range:
    if not isinstance(seen, Histogram):
        return seen.minmax()
    match asked.calibration:
        case "entropy":
            return seen.entropy()
        case "mse":
            return seen.mse(asked.activations)
    return seen.percentile(asked.percentile)


def _coarsened(counts: np.ndarray) -> np.ndarray:
    """Counts in 256 levels, each level's count spread evenly over its bins that hold any."""
    level = np.arange(counts.size) * LEVELS // counts.size
    held = counts > 0
    totals = np.bincount(level, counts, LEVELS)
    bins = np.bincount(level, held, LEVELS)
    return np.where(held, totals[level] / np.maximum(bins[level], 1), 0)


def _divergence(reference: np.ndarray, approximation: np.ndarray) -> float:
    """KL(reference || approximation), where a bin that only the reference holds counts as if the
    approximation had a ten-thousandth of a value there."""
    p = reference / max(reference.sum(), 1)
    q = np.maximum(approximation, 1e-4) / max(np.maximum(approximation, 1e-4).sum(), 1e-12)
    held = p > 0
    return float(np.sum(p[held] * np.log(p[held] / q[held])))
