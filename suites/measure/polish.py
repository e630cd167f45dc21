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
    drifts by itself among three or more does not move it. With two cells half of what one does
    alone goes to the other, with one there is nothing to compare, and its calls come back as they
    are.
    """
    rounds = max((int(each.round.max(initial=-1)) for each in cells.values()), default=-1) + 1
    table = np.full((len(cells), rounds), np.nan)
    for row, samples in enumerate(cells.values()):
        for number in np.unique(samples.round[~samples.warmup]):
            median = np.median(samples.nanoseconds[samples.round == number])
            if median > 0:
                table[row, number] = np.log(median)
    common = _round_effects(table) if len(cells) > 1 else np.zeros(rounds)
    return {
        name: samples.kept / np.exp(common[samples.round[~samples.warmup]])
        for name, samples in cells.items()
    }


def _round_effects(table: np.ndarray) -> np.ndarray:
    """``g`` of ``(cells, rounds)`` logarithms, NaN where a cell had no block; 0 for a round that
    no cell was in."""
    effects = np.zeros(table.shape[1])
    seen_rounds, seen_cells = ~np.isnan(table).all(axis=0), ~np.isnan(table).all(axis=1)
    levels = np.zeros(table.shape[0])
    for _ in range(SWEEPS):
        levels[seen_cells] = np.nanmedian((table - effects)[seen_cells], axis=1)
        effects[seen_rounds] = np.nanmedian((table - levels[:, None])[:, seen_rounds], axis=0)
    return effects
