"""What the machine did to all cells of a round at once, taken out of each one's samples."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from suites.measure.measurement import Samples

SWEEPS = 10
"""Median polish converges in a few sweeps; what is left after ten is far below the noise."""


def own_times(cells: Mapping[str, Samples]) -> dict[str, np.ndarray]:
    """Each cell's kept calls in order of time, divided by how slow the machine was in their round.

    The median of cell ``c`` in round ``r`` is taken as ``exp(a_c + g_r)`` times noise, and ``g``
    is found by median polish (Tukey 1977, *Exploratory Data Analysis*, chapter 11): a cell that
    drifts by itself among three or more does not move it. A round with fewer than three cells
    tells nothing of the machine, and its calls come back as they are: cells that cannot stop
    because they drift are the last ones left. In a group of two, half of what one does alone goes
    to the other.
    """
    rounds = max((int(each.round.max(initial=-1)) for each in cells.values()), default=-1) + 1
    table = np.full((len(cells), rounds), np.nan)
    for row, samples in enumerate(cells.values()):
        for number in np.unique(samples.round[~samples.warmup]):
            median = np.median(samples.nanoseconds[samples.round == number])
            if median > 0:
                table[row, number] = np.log(median)
    common = _round_effects(table, fewest=max(2, min(3, len(cells))))
    return {
        name: samples.kept / np.exp(common[samples.round[~samples.warmup]])
        for name, samples in cells.items()
    }


def _round_effects(table: np.ndarray, fewest: int) -> np.ndarray:
    """``g`` of ``(cells, rounds)`` logarithms, NaN where a cell had no block; 0 for a round with
    fewer than ``fewest`` cells, and 0 in the median of the others."""
    shared = (~np.isnan(table)).sum(axis=0) >= fewest
    effects = np.zeros(table.shape[1])
    if not shared.any():
        return effects
    part = table[:, shared]
    part = part[~np.isnan(part).all(axis=1)]
    found = np.zeros(part.shape[1])
    for _ in range(SWEEPS):
        levels = np.nanmedian(part - found, axis=1)
        found = np.nanmedian(part - levels[:, None], axis=0)
    effects[shared] = found - np.median(found)
    return effects
